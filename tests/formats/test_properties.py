"""Properties over adversarial spans: a few hostile numbers, spread over a span in any pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fewbits import formats, kernels
from fewbits.formats import Format, Params

FEW = settings(
    max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.filter_too_much]
)
QUANTIZED = [name for name in formats.ROWS if name not in ("F64", "F32", "F16", "BF16")]
SHIFTED = ("Q2_K", "Q4_K", "Q5_K", "Q4_1", "Q5_1")
ODD = [name for name in formats.ROWS if name not in (*SHIFTED, "Q1_0", "Q2_0", "IQ1_S", "IQ1_M")]
"""Formats whose grids are symmetric, up to the sign of their scale."""

WIDE = [name for name in QUANTIZED if name != "NVFP4"]
"""Formats whose scales have many powers of two: E4M3 has too few for the numbers below."""

SMALLEST_NORMAL_HALF = 2.0**-14

numbers = st.floats(-65504.0, 65504.0, width=32, allow_subnormal=True)
tame = st.floats(1.0, 2048.0, width=32) | st.floats(-2048.0, -1.0, width=32) | st.just(0.0)
patterns = st.tuples(st.integers(1, 2**32), st.integers(0, 6))


def spread(palette: list[float], pattern: tuple[int, int], format: Format, rows: int = 2) -> torch.Tensor:
    """(rows, two spans) of numbers from `palette`; the first one dominates in all but one of 2^k places."""
    seed, k = pattern
    cols = 2 * max(format.span, 16)
    draw = torch.randint(0, 2**30, (rows, cols), generator=torch.Generator().manual_seed(seed))
    index = torch.where(draw % 2**k == 0, draw // 2**k % len(palette), torch.zeros_like(draw))
    return torch.tensor(palette, dtype=torch.float32)[index]


def encode(format: Format, w: torch.Tensor) -> np.ndarray:
    stored = w.contiguous().numpy().view(np.uint8)
    return kernels.encode_rows(format.name, stored, "F32", formats.row_bytes(format, w.shape[1])).stored


def decode(format: Format, stored: np.ndarray, cols: int) -> torch.Tensor:
    return torch.from_numpy(kernels.decode_rows(format.name, stored, cols))


@pytest.mark.parametrize("name", list(formats.ROWS))
@FEW
@given(palette=st.lists(numbers, min_size=1, max_size=8), pattern=patterns)
def test_the_error_is_within_its_bound(name: str, palette: list[float], pattern: tuple[int, int]) -> None:
    format = formats.get(name)
    w = spread(palette, pattern, format).clamp(-format.largest, format.largest)
    spans = w.reshape(len(w), -1, format.span).double()
    error = (decode(format, encode(format, w), w.shape[1]).reshape(spans.shape).double() - spans).abs().amax(-1)
    assert bool((error <= format.error_bound * spans.abs().amax(-1) + format.error_floor).all())


@pytest.mark.parametrize("name", QUANTIZED)
@FEW
@given(palette=st.lists(numbers, min_size=1, max_size=8), pattern=patterns)
def test_kernels_store_the_bytes_of_torch(name: str, palette: list[float], pattern: tuple[int, int]) -> None:
    format = formats.get(name)
    w = spread(palette, pattern, format)
    params = format.fit(w)
    assert np.array_equal(encode(format, w), format.pack(format.encode(w, params), params))


@pytest.mark.parametrize("name", list(formats.ROWS))
@FEW
@given(palette=st.lists(numbers, min_size=1, max_size=8), pattern=patterns)
def test_encoding_is_idempotent(name: str, palette: list[float], pattern: tuple[int, int]) -> None:
    format = formats.get(name)
    w = spread(palette, pattern, format)
    params = format.fit(w)
    once = format.decode(format.encode(w, params), params)
    assert torch.equal(format.decode(format.encode(once, params), params), once)


def halves(params: Params) -> torch.Tensor:
    """The parameters that are stored as binary16, but for those that are 0."""
    found = torch.cat([params[n].flatten() for n in ("d", "dmin", "m") if n in params.arrays] or [torch.ones(1)]).abs()
    return found[found > 0]


@pytest.mark.parametrize("name", WIDE)
@FEW
@given(palette=st.lists(tame, min_size=1, max_size=8), pattern=patterns, power=st.integers(-4, 4))
def test_powers_of_two_change_the_scale_alone(
    name: str, palette: list[float], pattern: tuple[int, int], power: int
) -> None:
    """Wherever no 16-bit number is subnormal or beyond its range."""
    format = formats.get(name)
    w = spread(palette, pattern, format)
    params, scaled = format.fit(w), format.fit(2.0**power * w)
    stored = torch.cat([halves(params), halves(scaled)])
    assume(bool(((stored >= SMALLEST_NORMAL_HALF) & (stored < 65504.0)).all()))
    codes = format.encode(w, params)
    assert torch.equal(format.encode(2.0**power * w, scaled), codes)
    assert torch.equal(format.decode(codes, scaled), 2.0**power * format.decode(codes, params))


@pytest.mark.parametrize("name", ODD)
@FEW
@given(palette=st.lists(numbers, min_size=1, max_size=8), pattern=patterns)
def test_the_other_sign_gives_the_other_sign(name: str, palette: list[float], pattern: tuple[int, int]) -> None:
    format = formats.get(name)
    w = spread(palette, pattern, format)
    there, back = (decode(format, encode(format, x), w.shape[1]) for x in (w, -w))
    assert torch.equal(there, -back)


@pytest.mark.parametrize("name", list(formats.ROWS))
@FEW
@given(palette=st.lists(numbers, min_size=1, max_size=8), pattern=patterns, order=st.permutations(range(5)))
def test_rows_in_another_order(name: str, palette: list[float], pattern: tuple[int, int], order: list[int]) -> None:
    format = formats.get(name)
    w = spread(palette, pattern, format, rows=5)
    assert np.array_equal(encode(format, w[order]), encode(format, w)[order])
