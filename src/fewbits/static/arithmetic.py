"""Products, sums and means of whole numbers, and the way back to 8 bits: exact, and the same in any order of sums.

A real factor M becomes m / 2^shift with m of 22 bits, and a sum a of 32 bits becomes floor(a m / 2^shift + 1/2) + zero
(Jacob et al. 2018, arXiv:1712.05877, equation 6, with 22 bits in place of 31). a m then has at most 53 bits, so float64
has it exactly, and so it has the half that is added and the floor. tests/references/static_numbers.py does all of it in
Python's whole numbers.

Products on a CPU are native (`kernels/whole.py`). Elsewhere, and of convolutions whose groups have few rows, they are
products of float32 where no sum can reach 2^24, in any order and with any part of it, and of float64 where one can: the
numbers are whole and exact either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fewbits.kernels.whole import Rounding, Steps, WholeWeight, added, whole_weight

BITS = 22
"""Of a multiplier."""
MOST = 2**30
"""What sums of products, and biases, stay below: both together fit 32 bits."""
EXACT = 2**24
"""Up to here float32 has every whole number."""
PIECE = 2**17
"""Codes that are worked on at once."""
ONE_POINT = Steps()
"""Of a linear layer: a picture of one point."""


def multipliers(real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """M and shift, (n,) int32 each, so that m / 2^shift is `real` (n,) float64 > 0 to 22 bits.

    >>> [each.tolist() for each in multipliers(torch.tensor([0.5, 0.75], dtype=torch.float64))]
    [[2097152, 3145728], [22, 22]]
    """
    _, exponent = torch.frexp(real)
    shift = (BITS - exponent.to(torch.int32)).clamp(1, 62)
    m = torch.round(torch.ldexp(real, shift)).clamp(max=2**BITS)
    return m.to(torch.int32), shift


class Scaling(Rounding):
    """What turns sums into codes, spread along the channels of sums: floor(sums * factor + half) + zero, within bounds.

    `half` is bias * factor + 1/2. Sums stay below 2^30 and biases below 2^29, so float64 has all of it exactly.
    """

    @staticmethod
    def of(rounding: Sequence[torch.Tensor], shape: Sequence[int]) -> Scaling:
        """From `rounding` (bias, m, shift, zero, bounds), spread as `shape` says: (-1, 1, 1) for a convolution."""
        bias, m, shift, zero, bounds = rounding
        factor = torch.ldexp(m.double(), -shift)
        half = bias.double() * factor + 0.5
        low, high = bounds.tolist()
        return Scaling(factor.reshape(*shape), half.reshape(*shape), int(zero), low, high)

    def write(self, sums: torch.Tensor, codes: torch.Tensor) -> None:
        """The codes of `sums` (...) whole numbers, into `codes` (...)."""
        numbers = sums.double().mul_(self.factor).add_(self.half).floor_()
        codes.copy_(numbers.clamp_(self.low - self.zero, self.high - self.zero).add_(self.zero))


def pieces(x: torch.Tensor) -> list[slice]:
    """Samples of `x` (samples, ...) that are worked on at once: few enough for the processor's caches."""
    per_sample = max(1, x[:1].numel())
    count = max(1, PIECE // per_sample)
    return [slice(start, start + count) for start in range(0, max(1, len(x)), count)]


def exact_type(weight: torch.Tensor) -> torch.dtype:
    """The floats in which any sum of products of 8-bit inputs with a row of `weight` (rows, ...) int8 is exact."""
    largest = int(weight.flatten(1).to(torch.int32).abs().sum(1).max()) * 255
    return torch.float32 if largest < EXACT else torch.float64


def _floats(x: torch.Tensor, zero: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Codes less their zero point, in floats of `kind`."""
    return x.to(kind).sub_(zero.to(kind))


@torch.library.custom_op("fewbits::linear_sums", mutates_args=())
def linear_sums(x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(x - zero) weight^T in int32: `x` (..., cols) codes, `weight` (rows, cols) int8."""
    native = _native(x, weight)
    if native is not None:
        return native.products(_as_picture(x), int(zero)).reshape(*x.shape[:-1], len(weight))
    kind = exact_type(weight)
    return torch.nn.functional.linear(_floats(x, zero, kind), weight.to(kind)).to(torch.int32)


@linear_sums.register_fake
def _(x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@torch.library.custom_op("fewbits::linear_codes", mutates_args=())
def linear_codes(
    x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor, rounding: Sequence[torch.Tensor], signed: bool
) -> torch.Tensor:
    """The codes (..., rows) of `linear_sums`; `rounding` is (bias, m, shift, zero, bounds) of the results."""
    native, scaling = _native(x, weight), Scaling.of(rounding, (-1,))
    if native is not None:
        codes = native.codes(_as_picture(x), int(zero), scaling, signed)
        return codes.reshape(*x.shape[:-1], len(weight))
    kind = exact_type(weight)
    numbers, rows = weight.to(kind), x.reshape(-1, x.shape[-1])
    found = _empty(x, (len(rows), len(weight)), signed)
    for part in pieces(rows):
        scaling.write(torch.nn.functional.linear(_floats(rows[part], zero, kind), numbers), found[part])
    return found.reshape(*x.shape[:-1], len(weight))


@linear_codes.register_fake
def _(
    x: torch.Tensor, zero: torch.Tensor, weight: torch.Tensor, rounding: Sequence[torch.Tensor], signed: bool
) -> torch.Tensor:
    return _empty(x, (*x.shape[:-1], weight.shape[0]), signed)


def _native(x: torch.Tensor, weight: torch.Tensor, steps: Steps = ONE_POINT) -> WholeWeight | None:
    """`weight` for the processor's own products; None where they are those of floats."""
    return whole_weight(weight, steps) if natively(x) else None


def natively(x: torch.Tensor) -> bool:
    """Whether the processor's own kernels can work on `x`."""
    return x.device.type == "cpu" and x.numel() > 0


def _as_picture(x: torch.Tensor) -> torch.Tensor:
    """Codes (..., cols) as pictures of one point each."""
    return x.reshape(-1, 1, 1, x.shape[-1])


def _empty(x: torch.Tensor, shape: Sequence[int], signed: bool) -> torch.Tensor:
    return x.new_empty(tuple(shape), dtype=torch.int8 if signed else torch.uint8)


def _convolution(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> torch.Tensor:
    convolve = torch.nn.functional.conv1d if weight.dim() == 3 else torch.nn.functional.conv2d
    found: torch.Tensor = convolve(x, weight, None, stride, padding, dilation, groups)
    return found


def conv_sums(x: torch.Tensor, zero: torch.Tensor, numbers: torch.Tensor, *geometry: Any) -> torch.Tensor:
    """The convolution of x - zero with the whole `numbers` of a weight, in their floats; padding stands for 0."""
    # NNPACK, which torch takes for small batches, computes by Winograd's transforms: with fractions.
    with torch.backends.nnpack.flags(enabled=False):
        return _convolution(_floats(x, zero, numbers.dtype), numbers, *geometry)


@torch.library.custom_op("fewbits::conv_codes", mutates_args=())
def conv_codes(
    x: torch.Tensor,
    zero: torch.Tensor,
    weight: torch.Tensor,
    rounding: Sequence[torch.Tensor],
    signed: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """The codes of a convolution: codes `x` (samples, channels, ...), `weight` (rows, channels / groups, ...) int8.

    `rounding` is (bias, m, shift, zero, bounds) of the results, in which channels lie beside each other.
    """
    native = _native(x, weight, Steps(_pair(stride, 1), _pair(padding, 0), _pair(dilation, 1), groups))
    if native is not None:
        return _convolved(native, x, int(zero), Scaling.of(rounding, (-1,)), signed)
    kind = exact_type(weight)
    numbers, scaling = weight.to(kind), Scaling.of(rounding, (-1, *[1] * (weight.dim() - 2)))
    found = []
    for part in pieces(x):
        sums = conv_sums(x[part], zero, numbers, stride, padding, dilation, groups)
        found.append(_empty(x, sums.shape, signed))
        scaling.write(sums, found[-1])
    return _channels_last(torch.cat(found))


def _convolved(weight: WholeWeight, x: torch.Tensor, zero: int, scaling: Scaling, signed: bool) -> torch.Tensor:
    flat = x.dim() == 3  # one dimension is a picture of one line
    picture = (x.unsqueeze(2) if flat else x).movedim(1, -1)
    codes = weight.codes(picture, zero, scaling, signed)
    return (codes.squeeze(1) if flat else codes).movedim(-1, 1)


def _pair(given: Sequence[int], alone: int) -> tuple[int, int]:
    """Down and across, of one dimension or two; `alone` where there is no down."""
    down, across = (alone, *given)[-2:]
    return down, across


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """`x` (samples, channels, ...) as native products leave it."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _lie_channels_last(x: torch.Tensor) -> bool:
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


@conv_codes.register_fake
def _(
    x: torch.Tensor,
    zero: torch.Tensor,
    weight: torch.Tensor,
    rounding: Sequence[torch.Tensor],
    signed: bool,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    sums = _convolution(x.float(), weight.float(), stride, padding, dilation, groups)
    return _channels_last(_empty(x, sums.shape, signed))


@torch.library.custom_op("fewbits::rescale_codes", mutates_args=())
def rescale_codes(sums: torch.Tensor, rounding: Sequence[torch.Tensor], signed: bool) -> torch.Tensor:
    """The codes of `sums` (...) of whole numbers; `rounding` is (bias, m, shift, zero, bounds) with one of each."""
    found, scaling = _empty(sums, sums.shape, signed), Scaling.of(rounding, (-1,))
    for part in pieces(sums):
        scaling.write(sums[part], found[part])
    return found


@rescale_codes.register_fake
def _(sums: torch.Tensor, rounding: Sequence[torch.Tensor], signed: bool) -> torch.Tensor:
    return _empty(sums, sums.shape, signed)


@torch.library.custom_op("fewbits::add_codes", mutates_args=())
def add_codes(
    one: torch.Tensor,
    other: torch.Tensor,
    zeros: torch.Tensor,
    m: torch.Tensor,
    rounding: Sequence[torch.Tensor],
    signed: bool,
) -> torch.Tensor:
    """The codes of (one - zeros[0]) m[0] + (other - zeros[1]) m[1]; codes `one` and `other` spread over each other."""
    shape, scaling = _together(one, other), Scaling.of(rounding, (-1,))
    one, other = one.expand(shape), other.expand(shape)
    turned = _lie_channels_last(one) and _lie_channels_last(other)
    both = [(each.movedim(1, -1) if turned else each).contiguous() for each in (one, other)]
    found = _added(both, zeros, m, scaling, signed)
    return found.movedim(-1, 1) if turned else found


def _added(
    both: Sequence[torch.Tensor], zeros: torch.Tensor, m: torch.Tensor, scaling: Scaling, signed: bool
) -> torch.Tensor:
    one, other = both
    if natively(one):
        return added(both, zeros.tolist(), m.tolist(), scaling, signed)
    found = _empty(one, one.shape, signed)
    for part in pieces(one):
        left = _floats(one[part], zeros[0], torch.float64).mul_(m[0])
        scaling.write(left.add_(_floats(other[part], zeros[1], torch.float64).mul_(m[1])), found[part])
    return found


@add_codes.register_fake
def _(
    one: torch.Tensor,
    other: torch.Tensor,
    zeros: torch.Tensor,
    m: torch.Tensor,
    rounding: Sequence[torch.Tensor],
    signed: bool,
) -> torch.Tensor:
    shape = _together(one, other)
    found = _empty(one, shape, signed)
    turned = all(_lie_channels_last(each.expand(shape)) for each in (one, other))
    return _channels_last(found) if turned else found


def _together(one: torch.Tensor, other: torch.Tensor) -> torch.Size:
    """The shape of two that spread over each other."""
    shape: torch.Size = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
    return shape
