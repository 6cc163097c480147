"""Weights as whole numbers between -127 and 127, by the formats of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from fewbits import formats
from fewbits.errors import StaticError
from fewbits.static.arithmetic import MOST

FORMATS: Mapping[str, str] = MappingProxyType(
    {"channel": "int8_row_sym_restricted", "tensor": "int8_tensor_sym_restricted"}
)
"""How many scales a weight has -> the format that says so."""


@dataclass(frozen=True)
class RoundedWeight:
    """`codes` (rows, ...) int8 and `scale` (rows,) or (1,) float32: w ~ scale * code."""

    codes: torch.Tensor
    scale: torch.Tensor

    def numbers(self) -> torch.Tensor:
        """The weight (rows, ...) float32 that is meant."""
        return self.codes.float() * self.scale.reshape(-1, *[1] * (self.codes.dim() - 1))

    @property
    def bytes(self) -> int:
        """Stored bytes, scales included."""
        return self.codes.numel() + 4 * self.scale.numel()


def format_for(scales: str) -> str:
    """The format for "channel" or "tensor"; raises StaticError for another word."""
    if scales not in FORMATS:
        raise StaticError(f"weights={scales!r} is not known; expected {' or '.join(map(repr, FORMATS))}.")
    return FORMATS[scales]


def rounded(weight: torch.Tensor, scales: str, floor: torch.Tensor | None = None) -> RoundedWeight:
    """`weight` (rows, ...) in whole numbers; scales are at least `floor` (rows,), for the sake of a bias."""
    format, matrix = formats.get(format_for(scales)), weight.detach().flatten(1).float().contiguous()
    scale = format.fit(matrix).arrays["scale"].reshape(-1)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    if floor is not None:
        scale = torch.maximum(scale, floor if len(scale) > 1 else floor.max())
    codes = torch.round(matrix / scale[:, None]).clamp(-127, 127).to(torch.int8)
    return RoundedWeight(codes.reshape(weight.shape), scale)


def with_bias(
    weight: torch.Tensor, bias: torch.Tensor | None, scales: str, input_scale: float
) -> tuple[RoundedWeight, torch.Tensor]:
    """A weight and its `bias` (rows,), in whole numbers of input scale x weight scale, (rows,) int32.

    A row of next to no weights would leave no room for its bias: its scale is raised until the bias fits.
    """
    given = torch.zeros(len(weight)) if bias is None else bias.detach().cpu()
    floor = (given.double().abs() / (MOST * 0.5 * input_scale)).float()
    whole = rounded(weight, scales, floor.to(weight.device))
    numbers = torch.round(given.to(weight.device).double() / (whole.scale.double() * input_scale))
    return whole, numbers.to(torch.int32)


def sums_fit(weight: torch.Tensor) -> bool:
    """Whether sums over rows of any codes fit 32 bits beside their bias."""
    return weight[0].numel() * 255 * 127 < MOST
