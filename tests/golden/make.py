"""Make the golden files again, with the real peers: `make peers`, then `.venv/bin/python tests/golden/make.py`.

Tests never run this; they fail when a file is missing or differs from manifest.json. Run it only when a format is
added, a search is changed on purpose or the peers move on, and look at the difference before committing it.

formats/NAME.ours        what our codec stores for golden.inputs.matrix()
formats/NAME.peer        what ggml's C stores for it
formats/NAME.ours.f32    ggml's numbers for NAME.ours, which the gguf package must confirm
formats/NAME.peer.f32    ggml's numbers for NAME.peer
recipes.json             the type that llama-quantize chooses for each tensor of references.mixed_models, per recipe
manifest.json            SHA-256 of each file, and the versions that made them
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent / "src")]

import gguf  # noqa: E402
import numpy as np  # noqa: E402

from fewbits import kernels  # noqa: E402
from fewbits.checkpoints.huggingface import convert_directory  # noqa: E402
from fewbits.digest import sha256_of  # noqa: E402
from golden.inputs import matrix  # noqa: E402
from peers import ggml  # noqa: E402
from references.conversion_file import write_f16  # noqa: E402
from references.mixed_models import MODELS, RECIPES  # noqa: E402


def make_formats() -> None:
    """Bytes and numbers of every format that ggml has too."""
    w = matrix()
    for name in ggml.FORMATS:
        theirs = ggml.encode(name, w)
        ours = kernels.encode_rows(name, w.view(np.uint8), "F32", theirs.shape[1], isa="scalar").stored
        for who, stored in (("ours", ours), ("peer", theirs)):
            numbers = ggml.decode(name, stored)
            confirmed = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
            assert np.array_equal(numbers, confirmed), f"ggml and the gguf package disagree on {name}"
            (FOLDER / "formats" / f"{name}.{who}").write_bytes(stored.tobytes())
            (FOLDER / "formats" / f"{name}.{who}.f32").write_bytes(numbers.tobytes())


def make_recipes() -> None:
    """Types that llama-quantize chooses, with the facts that our rules ask for."""
    with tempfile.TemporaryDirectory() as folder:
        models = {make.__name__: _model(make(Path(folder) / make.__name__), Path(folder)) for make in MODELS}
    text = json.dumps({"recipes": " ".join(RECIPES), "models": models}, indent=1)
    (FOLDER / "recipes.json").write_text(text + "\n", encoding="utf-8")


def _model(directory: Path, folder: Path) -> dict[str, Any]:
    conversion = convert_directory(directory)
    source = write_f16(conversion, folder / "f16.gguf")
    chosen = [ggml.chosen_types(source, recipe, folder / "out.gguf") for recipe in RECIPES]
    facts = ("block_count", "attention.head_count", "attention.head_count_kv")
    return {
        "architecture": conversion.architecture,
        "facts": {key: conversion.metadata[f"{conversion.architecture}.{key}"].value for key in facts},
        "tensors": {
            p.name: " ".join(["x".join(map(str, p.source.shape)), *(types[p.name] for types in chosen)])
            for p in conversion.placements
        },
    }


def make_manifest() -> None:
    """SHA-256 of everything that was made."""
    files = sorted([FOLDER / "recipes.json", *(FOLDER / "formats").iterdir()])
    manifest = {
        "made by": {name: version(name) for name in ("llama-cpp-python", "gguf")},
        "sha256": {file.relative_to(FOLDER).as_posix(): sha256_of(file) for file in files},
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_formats()
    make_recipes()
    make_manifest()
