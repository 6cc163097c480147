"""Weights as whole numbers of 8 or 7 bits around 0, by the formats of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from fewbits import formats
from fewbits.errors import StaticError
from fewbits.static.arithmetic import MOST

SCOPES: Mapping[str, str] = MappingProxyType({"channel": "row", "tensor": "tensor"})
"""How many scales a weight has -> the word for it in names of formats."""


@dataclass(frozen=True)
class WeightFormat:
    """How weights are rounded: with a scale per "channel" or per "tensor", to 8 or 7 bits; raises StaticError.

    Two products of codes of 7 bits with codes of 8 bits fit 16 bits: see `onnx_layers.py`.

    >>> WeightFormat("channel", 7).name, WeightFormat("channel", 7).top
    ('int7_row_sym_restricted', 63)
    """

    scales: str
    bits: int = 8

    def __post_init__(self) -> None:
        if self.scales not in SCOPES:
            raise StaticError(f"weights={self.scales!r} is not known; expected {' or '.join(map(repr, SCOPES))}.")
        if self.bits not in (7, 8):
            raise StaticError(f"weight_bits={self.bits!r} is not known; expected 8 or 7.")

    @property
    def name(self) -> str:
        """The format of the registry."""
        return f"int{self.bits}_{SCOPES[self.scales]}_sym_restricted"

    @property
    def top(self) -> int:
        """The largest code; the lowest is its negative."""
        return int(2 ** (self.bits - 1)) - 1


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


def rounded(weight: torch.Tensor, form: WeightFormat, floor: torch.Tensor | None = None) -> RoundedWeight:
    """`weight` (rows, ...) in whole numbers; scales are at least `floor` (rows,), for the sake of a bias."""
    matrix = weight.detach().flatten(1).float().contiguous()
    scale = formats.get(form.name).fit(matrix).arrays["scale"].reshape(-1)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    floors = [largest_pair(weight.detach().float()) / _PAIR_BEFORE] if form.bits > SAFE_BITS else []
    for each in (*floors, *([] if floor is None else [floor])):
        scale = torch.maximum(scale, each if len(scale) > 1 else each.max())
    codes = torch.round(matrix / scale[:, None]).clamp(-form.top, form.top).to(torch.int8)
    return RoundedWeight(codes.reshape(weight.shape), scale)


PAIR = 128
"""The largest sum of two neighbouring codes: 255 times that fits 16 bits."""
SAFE_BITS = 7
"""Two codes of so many bits never add up to more."""
_PAIR_BEFORE = 126
"""The same before codes are rounded."""


def largest_pair(weight: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of a sum of two neighbours in each row of `weight` (rows, ...), (rows,) of its type.

    Processors without VNNI add two products of bytes in 16 bits and cut off what is larger. Neighbours are those of a
    row, and of a filter also those of one place in channels beside each other, as kernels with channels last have them.
    """
    orders = [weight.flatten(1)] + ([weight.movedim(1, -1).flatten(1)] if weight.dim() > 2 else [])
    found = weight.new_zeros(len(weight))
    for each in orders:
        pairs = each[:, : each.shape[1] // 2 * 2].reshape(len(each), -1, 2).sum(2)
        if pairs.shape[1]:
            found = torch.maximum(found, pairs.abs().amax(1))
    return found


def with_bias(
    weight: torch.Tensor, bias: torch.Tensor | None, form: WeightFormat, input_scale: float
) -> tuple[RoundedWeight, torch.Tensor]:
    """A weight and its `bias` (rows,), in whole numbers of input scale x weight scale, (rows,) int32.

    A row of next to no weights would leave no room for its bias: its scale is raised until the bias fits.
    """
    given = torch.zeros(len(weight)) if bias is None else bias.detach().cpu()
    floor = (given.double().abs() / (MOST * 0.5 * input_scale)).float()
    whole = rounded(weight, form, floor.to(weight.device))
    numbers = torch.round(given.to(weight.device).double() / (whole.scale.double() * input_scale))
    return whole, numbers.to(torch.int32)


def sums_fit(weight: torch.Tensor) -> bool:
    """Whether sums over rows of any codes fit 32 bits beside their bias."""
    return weight[0].numel() * 255 * 127 < MOST
