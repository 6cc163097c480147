"""Searches for the line through numbers that a grid with an offset of its own lays: its step and where it lies.

As in formats/steps.py, numbers are measured by the largest magnitude of their span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.exact import inverse, lane_sum
from fewbits.formats.grids import UniformGrid
from fewbits.formats.steps import Measured
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Arrays = dict[str, "torch.Tensor"]
REFITS = 1
"""How often a line is fitted to the codes that are nearest under it."""


@dataclass(frozen=True)
class Line:
    """Numbers grow by `step` from one code to the next and are `value` at the code `code`; (lines, n) each."""

    step: torch.Tensor
    code: torch.Tensor
    value: torch.Tensor


def line_at(m: Measured, codes: torch.Tensor) -> Line:
    """The line nearest to the numbers at `codes` (lines, n, length), by least squares about their means.

    Where all codes are one, or no number weighs anything, the step is 0.
    """
    share = inverse(lane_sum(m.weight))
    code = lane_sum(m.weight * codes) * share
    value = lane_sum(m.weight * m.y) * share
    apart = codes - code[..., None]
    weighted = m.weight * apart
    step = lane_sum(weighted * (m.y - value[..., None])) * inverse(lane_sum(weighted * apart))
    return Line(step * m.size, code, value * m.size)


def ranged(m: Measured, top: int, level: float) -> torch.Tensor:
    """Codes (lines, n, length) of which `level` steps make the range of the numbers, its middle halfway to `top`."""
    low, high = m.y.amin(-1), m.y.amax(-1)
    middle = 0.5 * (low + high)
    per_step = level * inverse(high - low)
    return ((m.y - middle[..., None]) * per_step[..., None] + 0.5 * top).round().clamp(0, top)


class Nearest:
    """The nearest of the lines that were tried, as they are stored.

    `stored` gives the parameters (lines, n) of a line and the grid of all numbers, one span a row.
    """

    def __init__(self, x: torch.Tensor, m: Measured, stored: Callable[[Line], tuple[Arrays, UniformGrid]]) -> None:
        self._x, self._m, self._stored = x.reshape(-1, x.shape[-1]), m, stored
        self._least: torch.Tensor | None = None
        self.arrays: Arrays = {}

    def attempt(self, line: Line) -> torch.Tensor:
        """Keep `line` where it is nearer than those before; the codes (lines, n, length) nearest under it."""
        arrays, grid = self._stored(line)
        codes = grid.nearest(self._x)
        back = grid.value(codes).reshape(self._m.y.shape) * inverse(self._m.size)[..., None]
        off = back - self._m.y
        error = lane_sum(self._m.weight * off * off)
        if self._least is None:
            self._least, self.arrays = error, arrays
        else:
            better = error < self._least
            self._least = torch.where(better, error, self._least)
            self.arrays = {name: torch.where(better, array, self.arrays[name]) for name, array in arrays.items()}
        return codes.reshape(self._m.y.shape).float()
