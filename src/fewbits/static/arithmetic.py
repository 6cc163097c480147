"""Products, sums and means of whole numbers, and the way back to 8 bits: exact, and the same in any order of sums.

A real factor M becomes m / 2^shift with m of 22 bits, and a sum a of 32 bits becomes floor(a m / 2^shift + 1/2) + zero
(Jacob et al. 2018, arXiv:1712.05877, equation 6, with 22 bits in place of 31). a m then has at most 53 bits, so float64
has it exactly, and so it has the half that is added and the floor. tests/references/static_numbers.py does all of it in
Python's whole numbers.

Products run as matrix products of float32 where no sum can reach 2^24, in any order and with any part of it, and of
float64 where one can: the numbers are whole and exact either way. torch has a product of int8 (`torch._int_mm`), which
is many times slower where the processor has no instructions for it.
"""

from __future__ import annotations

import torch

BITS = 22
"""Of a multiplier."""
MOST = 2**30
"""What sums of products, and biases, stay below: both together fit 32 bits."""
EXACT = 2**24
"""Up to here float32 has every whole number."""


def multipliers(real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """M and shift, (n,) int32 each, so that m / 2^shift is `real` (n,) float64 > 0 to 22 bits.

    >>> [each.tolist() for each in multipliers(torch.tensor([0.5, 0.75], dtype=torch.float64))]
    [[2097152, 3145728], [22, 22]]
    """
    _, exponent = torch.frexp(real)
    shift = (BITS - exponent.to(torch.int32)).clamp(1, 62)
    m = torch.round(torch.ldexp(real, shift)).clamp(max=2**BITS)
    return m.to(torch.int32), shift


def rescaled(sums: torch.Tensor, m: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """floor(sums * m / 2^shift + 1/2) as float64, exactly; `m` and `shift` spread over `sums` (...)."""
    return torch.floor(sums.double() * torch.ldexp(m.double(), -shift) + 0.5)


def as_codes(numbers: torch.Tensor, zero: torch.Tensor, bounds: torch.Tensor, signed: bool) -> torch.Tensor:
    """Whole `numbers` (...) as codes around `zero` () within `bounds` (2,)."""
    found = (numbers + zero).clamp(bounds[0], bounds[1])
    return found.to(torch.int8 if signed else torch.uint8)


def _spread(per_channel: torch.Tensor, like: torch.Tensor, channels: int) -> torch.Tensor:
    """(n,) or (1,) along dimension `channels` of `like`."""
    return per_channel.reshape([-1 if d == channels % like.dim() else 1 for d in range(like.dim())])


def exact_type(weight: torch.Tensor) -> torch.dtype:
    """The floats in which any sum of products of 8-bit inputs with a row of `weight` (rows, ...) int8 is exact."""
    largest = int(weight.flatten(1).to(torch.int32).abs().sum(1).max()) * 255
    return torch.float32 if largest < EXACT else torch.float64


@torch.library.custom_op("fewbits::linear_sums", mutates_args=())
def linear_sums(x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(x - zero) weight^T in int32: `x` (..., cols) codes, `weight` (rows, cols) int8."""
    kind = exact_type(weight)
    inputs = x.to(kind) - zero.to(kind)
    return torch.nn.functional.linear(inputs, weight.to(kind)).to(torch.int32)


@linear_sums.register_fake
def _(x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


def _convolution(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> torch.Tensor:
    convolve = torch.nn.functional.conv1d if weight.dim() == 3 else torch.nn.functional.conv2d
    found: torch.Tensor = convolve(x, weight, None, stride, padding, dilation, groups)
    return found


@torch.library.custom_op("fewbits::conv_sums", mutates_args=())
def conv_sums(
    x: torch.Tensor,
    zero: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """The convolution of x - zero with `weight` in int32: `x` (samples, channels, ...) codes, padded with `zero`."""
    kind = exact_type(weight)
    inputs = x.to(kind) - zero.to(kind)
    # NNPACK, which torch takes for small batches, computes by Winograd's transforms: with fractions.
    with torch.backends.nnpack.flags(enabled=False):
        return _convolution(inputs, weight.to(kind), stride, padding, dilation, groups).to(torch.int32)


@conv_sums.register_fake
def _(
    x: torch.Tensor,
    zero: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    return _convolution(x.float(), weight.float(), stride, padding, dilation, groups).to(torch.int32)


@torch.library.custom_op("fewbits::requantize", mutates_args=())
def requantize(
    sums: torch.Tensor,
    bias: torch.Tensor,
    m: torch.Tensor,
    shift: torch.Tensor,
    zero: torch.Tensor,
    bounds: torch.Tensor,
    channels: int,
    signed: bool,
) -> torch.Tensor:
    """`sums` + `bias` (...) int32 as codes; `bias`, `m` and `shift` (n,) or (1,) lie along dimension `channels`."""
    total = sums + _spread(bias, sums, channels)
    numbers = rescaled(total, _spread(m, sums, channels), _spread(shift, sums, channels))
    return as_codes(numbers, zero, bounds, signed)


@requantize.register_fake
def _(
    sums: torch.Tensor,
    bias: torch.Tensor,
    m: torch.Tensor,
    shift: torch.Tensor,
    zero: torch.Tensor,
    bounds: torch.Tensor,
    channels: int,
    signed: bool,
) -> torch.Tensor:
    return torch.empty_like(sums, dtype=torch.int8 if signed else torch.uint8)
