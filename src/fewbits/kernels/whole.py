"""Linear layers and convolutions in whole numbers of 8 bits, natively: exact, so the same on every processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fewbits.kernels.made import Made
from fewbits.kernels.module import native_module

LEAST_ROWS = 8
"""Of a group of channels: with less, most of a vector would be empty."""


@dataclass(frozen=True)
class Steps:
    """Stride, padding and dilation of a convolution over two dimensions, down and across, and groups of channels."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def listed(self) -> list[int]:
        """As the native module takes them."""
        return [*self.stride, *self.padding, *self.dilation, self.groups]

    def sizes(self, x: torch.Tensor, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of the results for `x` (samples, height, width, channels) and weights of `shape`."""
        sizes = zip(x.shape[1:3], self.padding, self.dilation, shape[1:3], self.stride, strict=True)
        down, across = (
            (size + 2 * pad - step * (kernel - 1) - 1) // move + 1 for size, pad, step, kernel, move in sizes
        )
        if down < 1 or across < 1:
            raise ValueError(f"the kernel {tuple(shape[1:3])} is larger than the picture {tuple(x.shape[1:3])}")
        return down, across


@dataclass(frozen=True)
class Rounding:
    """code = floor(sum * factor + half), between `low` and `high` less `zero`, + zero.

    Factors and halves are (rows,) or one for all rows, float64.
    """

    factor: torch.Tensor
    half: torch.Tensor
    zero: int
    low: int
    high: int

    def parts(self, rows: int) -> tuple[object, object, int, int, int]:
        """As the native module takes them."""
        factor, half = (each.double().flatten().expand(rows).contiguous().numpy() for each in (self.factor, self.half))
        return factor, half, *self.bounds()

    def bounds(self) -> tuple[int, int, int]:
        """The zero point, and the ends less it."""
        return self.zero, self.low - self.zero, self.high - self.zero


@dataclass(frozen=True)
class WholeWeight:
    """Weights (rows, height, width, channels of a group) int8, packed for one instruction set and `steps`."""

    shape: tuple[int, ...]
    steps: Steps
    packed: np.ndarray[tuple[int], np.dtype[np.uint8]]
    sums: torch.Tensor
    """Of the numbers of each row, (rows,) int32."""
    isa: str

    @staticmethod
    def of(weight: torch.Tensor, steps: Steps = Steps(), isa: str = "") -> WholeWeight:
        """Pack `weight` (rows, height, width, channels of a group) int8 for convolutions with `steps`.

        >>> w = WholeWeight.of(torch.tensor([[[[2, -3]]]], dtype=torch.int8))
        >>> w.products(torch.tensor([[[[7, 5]]]], dtype=torch.uint8), 5).tolist()
        [[[[4]]]]
        """
        native, shape = native_module(), tuple(weight.shape)
        packed = np.empty(native.whole_bytes(list(shape), steps.listed(), isa), np.uint8)
        native.pack_whole(weight.contiguous().numpy(), steps.listed(), packed, isa)
        return WholeWeight(shape, steps, packed, weight.flatten(1).sum(1, dtype=torch.int32), isa)

    def products(self, x: torch.Tensor, zero: int) -> torch.Tensor:
        """Sums (samples, ..., rows) int32 of products with x - zero; `x` (samples, height, width, channels) codes."""
        out = torch.empty(len(x), *self.steps.sizes(x, self.shape), self.shape[0], dtype=torch.int32)
        native_module().whole_sums(*self._given(x, zero), out.numpy(), torch.get_num_threads(), self.isa)
        return out

    def codes(self, x: torch.Tensor, zero: int, rounding: Rounding, signed: bool) -> torch.Tensor:
        """The same sums as codes, int8 where `signed`, else uint8."""
        shape = (len(x), *self.steps.sizes(x, self.shape), self.shape[0])
        out = torch.empty(shape, dtype=torch.int8 if signed else torch.uint8)
        how, given = rounding.parts(self.shape[0]), self._given(x, zero)
        native_module().whole_codes(*given, how, _bytes(out), torch.get_num_threads(), self.isa)
        return out

    def _given(self, x: torch.Tensor, zero: int) -> tuple[object, ...]:
        codes, source = _bytes(x.contiguous()), (zero, x.dtype == torch.int8)
        return self.packed, list(self.shape), self.steps.listed(), codes, source, self.sums.numpy()


def added(
    codes: Sequence[torch.Tensor],
    zeros: Sequence[int],
    m: Sequence[int],
    rounding: Rounding,
    signed: bool,
    isa: str = "",
) -> torch.Tensor:
    """The codes of (one - zeros[0]) m[0] + (other - zeros[1]) m[1] for two `codes` of a shape, both contiguous.

    >>> one = torch.tensor([7, 5], dtype=torch.uint8)
    >>> halved = Rounding(torch.tensor(0.5), torch.tensor(0.5), 1, 0, 255)
    >>> added([one, one], [5, 5], [1, 3], halved, signed=False).tolist()
    [5, 1]
    """
    one, other = codes
    out = torch.empty(one.shape, dtype=torch.int8 if signed else torch.uint8)
    sources = tuple((zero, each.dtype == torch.int8) for zero, each in zip(zeros, codes, strict=True))
    how = (*(float(each) for each in m), float(rounding.factor), float(rounding.half), *rounding.bounds())
    given = (_bytes(one).reshape(-1), _bytes(other).reshape(-1), sources, how, _bytes(out).reshape(-1))
    native_module().whole_added(*given, torch.get_num_threads(), isa)
    return out


def _bytes(codes: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return codes.view(torch.uint8).numpy()


_packed = Made[dict[Steps, WholeWeight]]()


def whole_weight(weight: torch.Tensor, steps: Steps = Steps()) -> WholeWeight | None:
    """`weight` (rows, channels of a group[, height], width) or (rows, cols) int8, packed once; None: not natively."""
    few = steps.groups > 1 and len(weight) // steps.groups < LEAST_ROWS
    if weight.device.type != "cpu" or not weight.numel() or few:
        return None
    known = _packed.of([weight], dict)
    if steps not in known:
        own = weight.detach()
        while own.dim() < 4:
            own = own.unsqueeze(2)
        known[steps] = WholeWeight.of(own.movedim(1, -1), steps)
    return known[steps]
