"""Make the golden files of families again: `.venv/bin/python tests/golden/make_families.py`, after `make peers`.

families.json       SHA-256 of every field that each listed member stores for golden.inputs.matrix()
bitsandbytes.json   what bitsandbytes stores for it, and SHA-256 of the numbers that it reads from that

The first is written always, the second only where bitsandbytes is installed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from fewbits import formats  # noqa: E402
from golden.inputs import COLS, ROWS, matrix  # noqa: E402


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def stored(name: str) -> dict[str, np.ndarray]:
    """What `name` stores for the golden matrix, cut to a width that fits."""
    format = formats.get(name)
    w = torch.from_numpy(matrix())[:, : COLS // (format.span or 1) * (format.span or 1)].contiguous()
    params = format.fit(w)
    return format.fields(format.encode(w, params), params)


def families() -> dict[str, dict[str, str]]:
    return {name: {key: sha256(field) for key, field in stored(name).items()} for name in formats.members()}


def bitsandbytes() -> dict[str, Any]:
    from peers import bnb

    w = torch.from_numpy(matrix())
    made: dict[str, Any] = {"made by": {"bitsandbytes": version("bitsandbytes"), "torch": version("torch")}}
    for name in bnb.FORMATS:
        fields, numbers = bnb.encode(name, w)
        kept = {
            key: {
                "dtype": str(field.dtype),
                "shape": list(field.shape),
                "data": base64.b64encode(field.tobytes()).decode(),
            }
            for key, field in fields.items()
        }
        error = float((torch.from_numpy(numbers).double() - w.double()).square().sum())
        made[name] = {"fields": kept, "numbers": sha256(numbers), "squared error": error}
    assert w.shape == (ROWS, COLS)
    return made


def write(name: str, content: dict[str, Any]) -> None:
    (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write("families.json", families())
    if find_spec("bitsandbytes"):
        write("bitsandbytes.json", bitsandbytes())
