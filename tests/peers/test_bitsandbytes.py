"""NF4, FP4 and quantized scales against bitsandbytes: the same numbers from the same bytes, and smaller errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("bitsandbytes")

from fewbits import formats
from fewbits.formats.doubled import dynamic_map
from fewbits.testing.inputs import normal
from peers import bnb

MATRICES = {
    "gaussian": 0.05 * normal(64, 512, 31),
    "heavy-tailed": normal(64, 512, 32) / (normal(64, 512, 33).square() + normal(64, 512, 34).square()).sqrt(),
    "positive": normal(64, 512, 35).abs(),
    "far from zero": 3.0 + 0.2 * normal(64, 512, 36),
    "outliers": torch.where(torch.arange(512) % 97 == 0, 30.0, 1.0) * normal(64, 512, 37),
}


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """But for the sign of zero: bitsandbytes reads FP4's code 8 as 0 where there is AVX-512, and as -0 elsewhere."""
    return np.array_equal((one + np.float32(0)).view(np.uint32), (other + np.float32(0)).view(np.uint32))


def test_the_table_of_scales_is_the_dynamic_map() -> None:
    from bitsandbytes.functional import create_dynamic_map

    assert same_bits(dynamic_map(), create_dynamic_map().numpy())


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", bnb.FORMATS)
def test_what_bitsandbytes_wrote(name: str, kind: str) -> None:
    """Its bytes mean to us what they mean to it, and our own are at least as close to the matrix."""
    format, w = formats.get(name), MATRICES[kind]
    fields, wanted = bnb.encode(name, w)
    assert same_bits(format.decode(*format.from_fields(fields, tuple(w.shape))).numpy(), wanted)
    params = format.fit(w)
    ours = format.decode(format.encode(w, params), params).numpy()
    errors = [float(((back - w.numpy()).astype(np.float64) ** 2).sum()) for back in (ours, wanted)]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("name", bnb.FORMATS)
def test_what_we_wrote(name: str) -> None:
    format, w = formats.get(name), MATRICES["heavy-tailed"]
    params = format.fit(w)
    codes = format.encode(w, params)
    wanted = bnb.read(name, format.fields(codes, params), tuple(w.shape))
    assert same_bits(format.decode(codes, params).numpy(), wanted)


@pytest.mark.parametrize("name", bnb.FORMATS)
def test_random_bytes(name: str) -> None:
    """Whatever codes a file brings; scales are finite numbers of any size."""
    format, rows, cols = formats.get(name), 8, 1024
    generator = torch.Generator().manual_seed(5)
    fields = {}
    for key, (dtype, shape) in format.shapes(rows, cols).items():
        raw = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
        numbers = (normal(1, int(np.prod(shape)), len(key)) ** 5).numpy().astype(np.float32).reshape(shape)
        fields[key] = raw if dtype == "uint8" else numbers
    wanted = bnb.read(name, fields, (rows, cols))
    assert same_bits(format.decode(*format.from_fields(fields, (rows, cols))).numpy(), wanted)
