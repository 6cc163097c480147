"""Double quantization: scales stored as 8-bit codes under scales of their own, as QLoRA and bitsandbytes do.

    scale = table[code] * nested + offset

`offset` is the mean of all scales of the tensor; 256 scales in the order of their rows share one `nested`, the largest
distance from the offset. The table is bitsandbytes' dynamic map: seven powers of ten, the upper ones in more steps. So
32 bits per scale become 8 + 32 / 256, and at 64 numbers per scale 0.5 bits per weight become 0.127. Source: Dettmers et
al. 2023, arXiv:2305.14314, section 3; the map: Dettmers et al. 2022, arXiv:2110.02861.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Fields, Shapes
from fewbits.formats.exact import stored_as
from fewbits.formats.grids import TableGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

GROUP = 256
"""Scales that share a scale."""

_DECADES = 7


@cache
def dynamic_map() -> npt.NDArray[np.float32]:
    """The 256 numbers of the table, in order: -0.993 .. 1, finest around 0.

    Decade d of seven reaches up to 10^(d - 6) in 2^d steps; its numbers are the middles of the steps from a tenth of
    that on, with both signs. 0 and 1 are added. All in float32, so that the numbers are bitsandbytes' own.
    """
    numbers = [np.float32(0.0), np.float32(1.0)]
    for decade in range(_DECADES):
        ends = _evenly(0.1, 1.0, 2**decade + 1)
        middles = (ends[:-1] + ends[1:]) / np.float32(2.0)
        scaled = np.float32(10.0 ** (decade - _DECADES + 1)) * middles
        numbers += [*scaled, *-scaled]
    return np.sort(np.array(numbers, np.float32))


def _evenly(start: float, stop: float, count: int) -> npt.NDArray[np.float32]:
    """`count` numbers from `start` to `stop`, counted from the nearer end: a float32 step, and each rounded once."""
    low, high, index = np.float32(start), np.float32(stop), np.arange(count)
    step = np.float64((high - low) / np.float32(count - 1))
    upwards, downwards = np.float64(low) + step * index, np.float64(high) - step * (count - 1 - index)
    return np.where(index < count // 2, upwards, downwards).astype(np.float32)


def shared_by_all(steps: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the scales `steps` (lines, n) of a tensor share: `nested` (lines, n), repeated, and `offset` (1, 1)."""
    flat = steps.detach().double().flatten()
    offset = stored_as(torch.tensor(math.fsum(flat.tolist()) / max(len(flat), 1)).float(), "f32").to(steps.device)
    far = torch.nn.functional.pad((steps - offset).abs().flatten(), (0, -steps.numel() % GROUP))
    largest = stored_as(far.reshape(-1, GROUP).amax(-1), "f32")
    return {"nested": expanded(largest, steps.shape), "offset": offset.reshape(1, 1)}


def compressed(steps: torch.Tensor, shared: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters that store the scales `steps` (lines, n), given what they share: the nearest codes."""
    return {"scale_code": _grid(shared["nested"]).nearest(steps - shared["offset"]), **shared}


def scales(arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scales (lines, n) float32 that parameters stand for."""
    return _grid(arrays["nested"]).value(arrays["scale_code"]) + arrays["offset"]


def expanded(nested: torch.Tensor, shape: torch.Size | tuple[int, int]) -> torch.Tensor:
    """One number per 256 scales as (lines, n), so that it can be cut by rows."""
    return nested.repeat_interleave(GROUP)[: shape[0] * shape[1]].reshape(shape)


def shapes(lines: int, count: int) -> Shapes:
    """The fields of (lines, count) scales."""
    nested = -(-lines * count // GROUP)
    return {"scale": ("uint8", (lines, count)), "nested": ("float32", (nested,)), "offset": ("float32", (1,))}


def to_fields(arrays: dict[str, torch.Tensor]) -> Fields:
    """What lies on disk: a byte per scale, a number per 256 of them, one number."""
    nested = arrays["nested"].flatten()[::GROUP]
    return {
        "scale": arrays["scale_code"].cpu().numpy(),
        "nested": nested.cpu().numpy(),
        "offset": arrays["offset"].flatten().cpu().numpy(),
    }


def from_fields(fields: Fields) -> dict[str, torch.Tensor]:
    """The parameters of fields that have the right shapes."""
    codes = torch.from_numpy(fields["scale"].copy())
    nested = expanded(torch.from_numpy(fields["nested"].copy()), codes.shape)
    return {"scale_code": codes, "nested": nested, "offset": torch.from_numpy(fields["offset"].copy()).reshape(1, 1)}


def _grid(nested: torch.Tensor) -> TableGrid:
    return TableGrid(nested, torch.from_numpy(dynamic_map()).to(nested.device))
