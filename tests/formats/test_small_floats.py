"""Small floats on every code and every half-way point, equal to torch's own casts; the formats made of them.

Every type rounds to nearest even. Magnitudes beyond the largest number, infinity too, become the largest number: torch
does so for E4M3 and stores infinity for E5M2. NaN becomes NaN where the type has one, else the largest number.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.formats.grids import Element
from fewbits.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, MiniFloat
from fewbits.formats.mx import INT8, MXFP4
from fewbits.formats.nvfp4 import NVFP4
from fewbits.qtensor import QTensor
from fewbits.testing.inputs import matrices, normal
from references import small_floats

ELEMENTS: list[Element] = [E4M3, E5M2, E3M2, E2M3, E2M1, INT8]
FLOATS = [E4M3, E5M2, E3M2, E2M3, E2M1]
FORMATS = [n for n in formats.members() if n.startswith(("fp", "mx", "nv")) and not n.startswith("fp4_bnb")]

each_element = pytest.mark.parametrize("element", ELEMENTS, ids=lambda e: e.name)
each_format = pytest.mark.parametrize("name", FORMATS)


def every(bits: int) -> torch.Tensor:
    return torch.arange(2**bits).to(torch.uint8)


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal bits, but for the payload of a NaN."""
    found, wanted = found.float(), wanted.float()
    assert torch.equal(found.isnan(), wanted.isnan())
    real = ~wanted.isnan()
    assert torch.equal(found[real].view(torch.int32), wanted[real].view(torch.int32))


@each_element
def test_every_code_means_what_the_specification_says(element: Element) -> None:
    wanted = torch.from_numpy(small_floats.numbers(element.name)).float()
    same(element.decode(every(element.bits)), wanted)
    same(element.numbers(), wanted)


@each_element
def test_every_code_comes_back(element: Element) -> None:
    codes = every(element.bits)
    numbers = element.decode(codes)
    held = numbers.abs() <= element.largest
    assert torch.equal(element.encode(numbers[held]), codes[held])


@each_element
def test_every_half_way_point_goes_to_the_even_code(element: Element) -> None:
    """And what lies next to it, on either side, to the nearer number."""
    numbers = element.decode(every(element.bits))
    held = numbers[numbers.abs() <= element.largest].double().unique()
    half = ((held[1:] + held[:-1]) / 2).float()
    codes = element.encode(half)
    assert bool((codes % 2 == 0).all())
    found = element.decode(codes)
    assert bool(((found == held[1:].float()) | (found == held[:-1].float())).all())
    below, above = torch.nextafter(half, torch.tensor(-torch.inf)), torch.nextafter(half, torch.tensor(torch.inf))
    assert torch.equal(element.decode(element.encode(below)), held[:-1].float() + 0.0)
    assert torch.equal(element.decode(element.encode(above)), held[1:].float() + 0.0)


@each_element
def test_numbers_beyond_the_largest_become_the_largest(element: Element) -> None:
    limit = torch.tensor(element.largest)
    beyond = [torch.nextafter(limit, torch.tensor(torch.inf)), 1.5 * limit, 3e38, torch.inf]
    for x in beyond:
        both = torch.tensor([float(x), -float(x)])
        assert element.decode(element.encode(both)).tolist() == [element.largest, -element.largest]
        assert element.rounded(both).tolist() == [element.largest, -element.largest]


@pytest.mark.parametrize("element", FLOATS, ids=lambda e: e.name)
def test_nan_stays_nan_where_there_is_one(element: MiniFloat) -> None:
    found = float(element.decode(element.encode(torch.tensor([torch.nan]))))
    assert np.isnan(found) if element.nan is not None else found == element.largest


@each_element
def test_rounding_is_encoding(element: Element) -> None:
    some = normal(64, 64).flatten()
    x = torch.cat([some * element.largest / 2, some * 1e-2, some**3, 0.0 * some, some * 1e-30])
    same(element.rounded(x) + 0.0, element.decode(element.encode(x)) + 0.0)


@each_element
def test_the_reference_finds_the_same(element: Element) -> None:
    x = normal(8, 512).flatten() * element.largest / 2
    wanted = torch.from_numpy(small_floats.nearest(element.name, x.double().numpy())).float()
    assert torch.equal(element.rounded(x), wanted)


SIXTEEN_BITS = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
TIES = torch.arange(2**13, dtype=torch.int32) * 2**19
INPUTS = {
    "all BF16": SIXTEEN_BITS.view(torch.bfloat16),
    "all F16": SIXTEEN_BITS.view(torch.float16),
    "F32": (torch.arange(2**21, dtype=torch.int32) * 2048 + 1023).view(torch.float32),
    "F32 around ties": (TIES[:, None] + torch.arange(-2, 3)).int().flatten().view(torch.float32),
}


@pytest.mark.parametrize("numbers", INPUTS)
@pytest.mark.parametrize(("element", "theirs"), [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)], ids=str)
def test_casts_are_torchs(element: MiniFloat, theirs: torch.dtype, numbers: str) -> None:
    """Up to where a number rounds to the largest; NaN too, whose sign torch drops in places."""
    x = INPUTS[numbers]
    below = element.number(element.top - 1)
    limit = element.largest + (element.largest - below) / 2
    held = (x.abs() < limit) & ~x.isnan()
    assert int(held.sum()) > 10_000
    assert torch.equal(element.encode(x[held].float()), x[held].to(theirs).view(torch.uint8))
    assert bool(element.decode(element.encode(x[x.isnan()].float())).isnan().all())
    assert bool(x[x.isnan()].to(theirs).float().isnan().all())


def test_powers_of_two_are_torchs() -> None:
    codes = every(8)
    same(MXFP4.from_scale_bytes(codes), codes.view(torch.float8_e8m0fnu).float())
    powers = MXFP4.from_scale_bytes(codes[:255])
    packed = MXFP4.fields(torch.zeros(1, 32 * 255, dtype=torch.uint8), formats.Params({"scale": powers[None]}))
    assert packed["scale"].tolist() == [list(range(255))]


def stored(name: str, w: torch.Tensor) -> QTensor:
    format = formats.get(name)
    params = format.fit(w)
    return QTensor(format, format.encode(w, params), params)


@each_format
def test_random_fields_mean_what_the_specification_says(name: str) -> None:
    format, shape = formats.get(name), (150 if "tile" in name else 3, 256)
    fields = stored(name, normal(*shape)).fields()
    generator = np.random.default_rng(7)
    for key, field in fields.items():
        if key == "codes" or field.dtype == np.uint8:
            fields[key] = generator.integers(0, 256, field.shape, np.uint8)
    found = QTensor.from_fields(format, fields, shape).dequantize().numpy()
    wanted = small_floats.decode(name, fields, shape[1]).astype(np.float32)
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(wanted) | (np.isnan(wanted) & np.signbit(found)))


@each_format
def test_what_was_encoded_means_what_the_specification_says(name: str) -> None:
    format = formats.get(name)
    for w in matrices(2, 256, format.largest).values():
        q = stored(name, w)
        wanted = small_floats.decode(name, q.fields(), 256).astype(np.float32)
        assert np.array_equal(q.dequantize().numpy(), wanted)


KINDS = {
    "gaussian": normal(130, 256, 11) * 0.05,
    "heavy-tailed": normal(130, 256, 12) ** 3,
    "positive": normal(130, 256, 13).abs(),
    "far from zero": 3.0 + 0.2 * normal(130, 256, 14),
}


@pytest.mark.parametrize("kind", KINDS)
@each_format
def test_the_search_is_no_worse_than_the_rule_of_the_authors(name: str, kind: str) -> None:
    w = KINDS[kind]
    exact = w.double().numpy()
    ours = float(((stored(name, w).dequantize().double().numpy() - exact) ** 2).sum())
    theirs = float(((small_floats.textbook(name, exact) - exact) ** 2).sum())
    assert 0 < ours <= theirs * (1 + 1e-5)


@each_format
def test_hard_matrices_are_no_worse_than_by_the_rule_of_the_authors(name: str) -> None:
    """Up to what the rounding of a 32-bit scale costs where everything else is exact."""
    format = formats.get(name)
    for what, w in matrices(130, 256, min(format.largest, 1e18)).items():
        exact = w.double().numpy()
        ours = float(((stored(name, w).dequantize().double().numpy() - exact) ** 2).sum())
        theirs = float(((small_floats.textbook(name, exact) - exact) ** 2).sum())
        rounding = (2.0**-8 if name.endswith("bf16") else 2.0**-11 if name.endswith("f16") else 2.0**-20) ** 2
        allowed = theirs * (1 + 1e-5) + rounding * float((exact**2).sum()) + exact.size * format.error_floor**2
        assert ours <= allowed, what


def test_the_scale_of_a_tensor_survives_the_way_through_its_inverse() -> None:
    """compressed-tensors stores G = 448 * 6 / largest, and readers multiply by 1 / G: nothing is lost."""
    for w in (*matrices(3, 64, 2.0**126).values(), *(normal(1, 16, seed) for seed in range(300))):
        scale = NVFP4.prepare([w])["tensor_scale"]
        assert torch.equal(1.0 / (1.0 / scale), scale)
