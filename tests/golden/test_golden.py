"""What the real peers made once stands in for them: missing or changed files fail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewbits import formats, kernels
from fewbits.digest import sha256_of
from golden.inputs import COLS, ROWS, matrix
from references.searches import weights

FOLDER = Path(__file__).parent
QUANTIZED = [name for name in formats.ROWS if name not in ("F64", "F32")]

OTHERS = {"recipes.json", "pocket.imatrix.gguf", "pocket.imatrix.dat"}


def test_every_file_is_there_and_as_it_was_made() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())["sha256"]
    wanted = {f"formats/{name}.{who}{kind}" for name in QUANTIZED for who in ("ours", "peer") for kind in ("", ".f32")}
    present = {f"formats/{file.name}" for file in (FOLDER / "formats").iterdir()} | OTHERS
    assert set(manifest) == present == wanted | OTHERS
    assert {name: sha256_of(FOLDER / name) for name in manifest} == manifest


def stored(name: str, who: str) -> np.ndarray:
    return np.fromfile(FOLDER / "formats" / f"{name}.{who}", np.uint8).reshape(ROWS, -1)


def numbers(name: str, who: str) -> np.ndarray:
    return np.fromfile(FOLDER / "formats" / f"{name}.{who}.f32", np.float32).reshape(ROWS, COLS)


@pytest.mark.parametrize("name", QUANTIZED)
def test_our_bytes_are_what_they_were(name: str) -> None:
    wanted = stored(name, "ours")
    for isa in kernels.available():
        found = kernels.encode_rows(name, matrix().view(np.uint8), "F32", wanted.shape[1], isa=isa)
        assert np.array_equal(found.stored, wanted), isa


@pytest.mark.parametrize("who", ["ours", "peer"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_bytes_mean_what_they_mean_to_ggml(name: str, who: str) -> None:
    """To the last bit, the sign of zero included."""
    wanted = numbers(name, who).view(np.uint32)
    format = formats.get(name)
    torch_numbers = format.decode(*format.unpack(stored(name, who), COLS)).numpy()
    assert np.array_equal(torch_numbers.view(np.uint32), wanted)
    for isa in kernels.available():
        assert np.array_equal(kernels.decode_rows(name, stored(name, who), COLS, isa=isa).view(np.uint32), wanted), isa


@pytest.mark.parametrize("name", QUANTIZED)
def test_we_are_at_least_as_close_as_ggml(name: str) -> None:
    """In the weights that ggml itself minimises for the format."""
    w = matrix().astype(np.float64)
    errors = {who: float((weights(name, w) * (numbers(name, who) - w) ** 2).sum()) for who in ("ours", "peer")}
    assert 0 < errors["ours"] <= errors["peer"]
