"""Whole numbers that stand for activations: x ~ scale * (code - zero), one scale and one zero point per tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewbits.calibration.observers import Range
from fewbits.errors import StaticError
from fewbits.registry import Registry


@dataclass(frozen=True)
class Kind:
    """A type of codes: the lowest and the highest, and the code from which observers count as 0."""

    dtype: torch.dtype
    low: int
    high: int
    shift: int


KINDS: Registry[Kind] = Registry("type of activations", StaticError)
KINDS.add("uint8", Kind(torch.uint8, 0, 255, 0))
KINDS.add("int8", Kind(torch.int8, -128, 127, -128))


@dataclass(frozen=True)
class Affine:
    """How one tensor is rounded (Jacob et al. 2018, arXiv:1712.05877, equation 1)."""

    scale: float
    """A float32."""
    zero: int
    kind: str = "uint8"

    @staticmethod
    def over(range_: Range, kind: str, *, symmetric: bool) -> Affine:
        """Codes whose ends stand for the ends of `range_`.

        >>> Affine.over(Range(-1.0, 3.0), "int8", symmetric=False).zero
        -64
        """
        scale, zero = range_.steps(8, symmetric=symmetric)
        single = max(float(np.float32(scale)), float(np.finfo(np.float32).tiny))
        return Affine(single, zero + KINDS.get(kind).shift, kind)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the codes."""
        return KINDS.get(self.kind).dtype

    @property
    def low(self) -> int:
        """The lowest code."""
        return KINDS.get(self.kind).low

    @property
    def high(self) -> int:
        """The highest code."""
        return KINDS.get(self.kind).high

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The codes of `x` (...), halves to even, as ONNX' QuantizeLinear rounds.

        >>> Affine(0.5, 10).encode(torch.tensor([-100.0, 0.0, 0.25, 0.75])).tolist()
        [0, 10, 10, 12]
        """
        return (torch.round(x / self.scale) + self.zero).clamp(self.low, self.high).to(self.dtype)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The numbers (...) float32 that codes stand for."""
        return (codes.to(torch.int32) - self.zero).float() * self.scale

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as its codes have it."""
        return self.decode(self.encode(x))
