"""Inputs rounded to whole numbers under one scale and one zero point that were fixed before: static activations."""

from __future__ import annotations

import torch


class StaticRounding(torch.nn.Module):
    """x -> scale * (clamp(round(x / scale) + zero, 0, 2^bits - 1) - zero), in floats, as codes of `bits` have it.

    Jacob et al. 2018, arXiv:1712.05877, equation 1; halves go to even.

    >>> StaticRounding(torch.tensor(0.5), torch.tensor(1.0), 2)(torch.tensor([-9.0, 0.3, 0.8, 9.0]))
    tensor([-0.5000,  0.5000,  1.0000,  1.0000])
    """

    scale: torch.Tensor
    zero: torch.Tensor

    def __init__(self, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero", zero.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers (...) that inputs `x` (...) become, in their type."""
        codes = (torch.round(x.float() / self.scale) + self.zero).clamp(0, 2**self.bits - 1)
        return (self.scale * (codes - self.zero)).to(x.dtype)

    def extra_repr(self) -> str:
        """Bits."""
        return f"bits={self.bits}"
