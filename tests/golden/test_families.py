"""What members of families store, by SHA-256, and what bitsandbytes made once, which stands in for it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import formats
from golden.inputs import COLS, ROWS, matrix

FOLDER = Path(__file__).parent
FAMILIES: dict[str, dict[str, str]] = json.loads((FOLDER / "families.json").read_text())
PEER: dict[str, Any] = json.loads((FOLDER / "bitsandbytes.json").read_text())
NAMES = [name for name in PEER if name != "made by"]


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_every_listed_member_has_its_hashes() -> None:
    assert set(FAMILIES) == set(formats.members()), "run tests/golden/make_families.py"


@pytest.mark.parametrize("name", formats.members())
def test_our_bytes_are_what_they_were(name: str) -> None:
    format = formats.get(name)
    w = torch.from_numpy(matrix())[:, : COLS // (format.span or 1) * (format.span or 1)].contiguous()
    params = format.fit(w)
    fields = format.fields(format.encode(w, params), params)
    assert {key: sha256(field) for key, field in fields.items()} == FAMILIES[name]


def kept(name: str) -> dict[str, np.ndarray]:
    return {
        key: np.frombuffer(base64.b64decode(field["data"]), field["dtype"]).reshape(field["shape"])
        for key, field in PEER[name]["fields"].items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_bitsandbytes_mean_what_they_mean_to_it(name: str) -> None:
    """To the last bit; and our own error is no larger than its."""
    format, w = formats.get(name), torch.from_numpy(matrix())
    numbers = format.decode(*format.from_fields(kept(name), (ROWS, COLS)))
    assert sha256(numbers.numpy()) == PEER[name]["numbers"]
    params = format.fit(w)
    back = format.decode(format.encode(w, params), params).double()
    assert 0 < float((back - w.double()).square().sum()) <= PEER[name]["squared error"]
