"""Make the golden files again, with the real peers: `make peers`, then `.venv/bin/python tests/golden/make.py`.

With `formats`, names of formats or `recipes` it makes these alone, with `manifest` only the manifest. Tests never run
this; they fail when a file is missing or differs from manifest.json. Run it only when a format is added, a search is
changed on purpose or the peers move on, and look at the difference before committing it.

formats/NAME.ours        what our codec stores for golden.inputs.matrix()
formats/NAME.peer        what ggml's C stores for it
formats/NAME.ours.f32    ggml's numbers for NAME.ours, which the gguf package must confirm where it knows the format
formats/NAME.peer.f32    ggml's numbers for NAME.peer
recipes.json             the types that llama-quantize chooses for references.recipe_models, a line per recipe
pocket.imatrix.gguf/dat  what llama-imatrix -c 256 --chunks 8 measured for the embedded model, in both its forms
manifest.json            SHA-256 of each file, and the versions that made them
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent / "src")]

import gguf  # noqa: E402
import numpy as np  # noqa: E402

from fewbits import kernels  # noqa: E402
from fewbits.digest import sha256_of  # noqa: E402
from golden.inputs import matrix  # noqa: E402
from peers import ggml  # noqa: E402
from references.condensed import condensed  # noqa: E402
from references.recipe_models import MODELS, write_shapes  # noqa: E402


def make_formats(names: Iterable[str]) -> None:
    """Bytes and numbers of formats that ggml has too."""
    w = matrix()
    for name in names:
        theirs = ggml.encode(name, w)
        ours = kernels.encode_rows(name, w.view(np.uint8), "F32", theirs.shape[1], isa="scalar").stored
        for who, stored in (("ours", ours), ("peer", theirs)):
            numbers = ggml.decode(name, stored)
            if name not in ggml.UNKNOWN_TO_THE_PACKAGE:
                confirmed = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
                assert np.array_equal(numbers, confirmed), f"ggml and the gguf package disagree on {name}"
            (FOLDER / "formats" / f"{name}.{who}").write_bytes(stored.tobytes())
            (FOLDER / "formats" / f"{name}.{who}.f32").write_bytes(numbers.tobytes())


def make_recipes() -> None:
    """Types that llama-quantize chooses without weights or, where they differ, with an importance matrix ("+")."""
    models = {}
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            matrices = {tensor for tensor, shape in model.shapes.items() if len(shape) > 1}
            models[name] = _choices(write_shapes(model, Path(folder) / "shapes.gguf"), matrices)
    (FOLDER / "recipes.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")


def _choices(source: Path, matrices: set[str]) -> dict[str, str]:
    lines: dict[str, str] = {}
    for recipe in ggml.MIXES:
        for mark, importance in (("", False), ("+", True)):
            types = ggml.planned_types(source, recipe, importance=importance)
            line = condensed({name: types[name] for name in matrices}) if types else "refused"
            if line != lines.get(recipe):
                lines[recipe + mark] = line
    return lines


def make_manifest() -> None:
    """SHA-256 of everything that was made."""
    files = sorted([FOLDER / "recipes.json", *FOLDER.glob("pocket.imatrix.*"), *(FOLDER / "formats").iterdir()])
    manifest = {
        "made by": {name: version(name) for name in ("llama-cpp-python", "gguf")},
        "sha256": {file.relative_to(FOLDER).as_posix(): sha256_of(file) for file in files},
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["formats", "recipes"]
    make_formats(ggml.FORMATS if "formats" in wanted else [name for name in ggml.FORMATS if name in wanted])
    if "recipes" in wanted:
        make_recipes()
    make_manifest()
