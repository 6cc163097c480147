"""GGUF's formats with a 16-bit scale and a 16-bit minimum per 32 columns: Q4_1, and Q5_1, the stand-in for Q5_K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import (
    SINGULAR,
    best_even_line,
    by_row_spread,
    divided,
    evenly_or,
    inverse,
    ordered_sum,
    stored_half,
)
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 32
NARROWEST = 1e-30
"""A range below this counts as this: its inverse stays finite, and no 16-bit scale could tell the difference."""
REFITS = 2
NARROW = 2.0**-11, 0.125
"""Where the range is below this, or below this share of the smallest number, the rounding of d and m may count for more
than the search."""
_MORE_STEPS = (
    *(-3.0, -2.25, -1.75, -1.375, -1.125, -0.875, -0.625, -0.375),
    *(-0.125, 0.125, 0.375, 0.625, 0.875, 1.25, 1.75, 2.5),
)


class _Line:
    """The best line scale * code + start of y = x - low so far, per group, and what it takes to better it."""

    def __init__(self, x: torch.Tensor, weight: torch.Tensor, low: torch.Tensor, top: int) -> None:
        self._y, self._weight, self._top = x - low[..., None], weight, top
        weighted = weight * self._y
        self._sums = ordered_sum(weight), ordered_sum(weighted), ordered_sum(weighted * self._y)
        self._best = torch.full_like(low, torch.inf)
        self.scale, self.start = torch.zeros_like(low), torch.zeros_like(low)

    def try_range(self, level: float, range_: torch.Tensor, start: torch.Tensor) -> None:
        """The line through the codes of a range that takes `level` steps from `start` on."""
        width = (range_ - start).clamp(min=NARROWEST)
        self._try(torch.full_like(width, level) / width, start)

    def refit(self) -> None:
        """The line through the codes that are nearest under the best line."""
        width = self.scale.clamp(min=NARROWEST)
        self._try(torch.ones_like(width) / width, self.start)

    def _try(self, inv: torch.Tensor, begin: torch.Tensor) -> None:
        sw, sy, syy = self._sums
        codes = ((self._y - begin[..., None]) * inv[..., None]).round().clamp(0, self._top)
        weighted = self._weight * codes
        sl, sll, sly = ordered_sum(weighted), ordered_sum(weighted * codes), ordered_sum(weighted * self._y)
        product = sw * sll
        det = product - sl * sl
        a, b = (sw * sly - sy * sl) / det, (sll * sy - sl * sly) / det
        error = (syy + a * ((a * sll - 2.0 * sly) + (2.0 * b) * sl)) + b * (b * sw - 2.0 * sy)
        better = (det > SINGULAR * product) & (error < self._best)
        self._best = torch.where(better, error, self._best)
        self.scale, self.start = torch.where(better, a, self.scale), torch.where(better, b, self.start)


@dataclass(frozen=True)
class Shifted(GridCodec):
    """w = d * code + m: codes of `code_bits` bits, a binary16 scale d and a binary16 minimum m per 32 columns.

    Evenly weighted, the best least-squares line through the codes of several steps is found in whole numbers (see
    `exact.best_even_line`). By importance, the ranges of `weighted_levels` are tried, each from the smallest number and
    then each from where the best line starts, and that line is fitted to its own nearest codes `REFITS` times. The
    plain line from the smallest to the largest number is taken where that one, as stored, is nearer: numbers far from
    zero in a narrow range suffer more from the rounding of m than from anything else. Evenly weighted it is tried only
    there.
    """

    name: str
    code_bits: int
    even_whole: int
    even_steps: tuple[int, ...]
    error_bound: float
    layout: str
    source: str
    equation: str = "w = d * code + m"
    span: int = SPAN
    rows: int = 1
    vector: int = 1

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.code_bits - 1)

    @property
    def span_bytes(self) -> int:
        """Bytes of d, m and 32 codes."""
        return 4 + SPAN * self.code_bits // 8

    @property
    def weighted_levels(self) -> tuple[float, ...]:
        """Numbers of steps that are tried where importance is given."""
        return tuple(self.top + more for more in _MORE_STEPS)

    @property
    def largest(self) -> float:
        """Limited by m, which takes the most negative number."""
        return 65504.0

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest code, and of m."""
        return 2.0**-25 * (self.top + 1)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The line d, m, each (rows, spans): searched for, or fitted to given codes (rows, cols) by least squares."""
        x = w.reshape(len(w), -1, SPAN)
        weight = evenly_or(importance, w, x)
        if codes is not None:
            return self._at_codes(x, weight, codes.float().reshape(x.shape))
        low = x.amin(-1) + 0.0  # which zero is the smallest depends on the machine; this makes it +0
        range_ = (x.amax(-1) - low) + 0.0
        plain_d, plain_m = stored_half(divided(range_, float(self.top))), stored_half(low)
        if importance is None:
            scale, start = best_even_line(x, low, range_, self.even_whole, self.even_steps)
            wide = (low.abs() * NARROW[1]).clamp(min=NARROW[0]) <= range_
        else:
            scale, start = self._weighted_line(_Line(x, weight, low, self.top), range_)
            wide = torch.zeros_like(range_, dtype=torch.bool)
        d, m = stored_half(scale), stored_half(low + start)
        better = wide | (self._error(x, weight, d, m) < self._error(x, weight, plain_d, plain_m))
        return Params({"d": torch.where(better, d, plain_d), "m": torch.where(better, m, plain_m)})

    def _weighted_line(self, search: _Line, range_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for level in self.weighted_levels:
            search.try_range(level, range_, torch.zeros_like(range_))
        for level in self.weighted_levels:
            search.try_range(level, range_, search.start)
        for _ in range(REFITS):
            search.refit()
        return search.scale, search.start

    def _at_codes(self, x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor) -> Params:
        """The m of the least-squares line as it is stored, then the d that is best beside it."""
        weighted = weight * codes
        sw, sl, sll = ordered_sum(weight), ordered_sum(weighted), ordered_sum(weighted * codes)
        sx, slx = ordered_sum(weight * x), ordered_sum(weighted * x)
        det = sw * sll - sl * sl
        regular = det > SINGULAR * (sw * sll)
        m = stored_half(torch.where(regular, (sll * sx - sl * slx) / det, sx * inverse(sw)))
        return Params({"d": stored_half((slx - m * sl) * inverse(sll)), "m": m})

    def _error(self, x: torch.Tensor, weight: torch.Tensor, d: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        steps = ((x - m[..., None]) * inverse(d)[..., None]).round().clamp(0, self.top)
        r = (d[..., None] * steps + m[..., None]) - x
        return ordered_sum((weight * r) * r)

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(the row's mean square + w^2)."""
        return by_row_spread(w, importance)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale, m = (params[name].repeat_interleave(SPAN, 1)[:, cols] for name in ("d", "m"))
        return UniformGrid(scale, -m, self.top)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        span = codes.reshape(len(codes), -1, SPAN).cpu().numpy()
        halves = np.stack([params[n].half().cpu().numpy() for n in ("d", "m")], axis=-1).view(np.uint8)
        fifth = [np.packbits(span >> 4, axis=-1, bitorder="little")] if self.code_bits == 5 else []
        nibbles = (span[..., :16] & 15) | (span[..., 16:] & 15) << 4
        return np.concatenate([halves, *fifth, nibbles], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8, d and m (rows, spans)."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        halves = np.ascontiguousarray(span[..., :4]).view(np.float16).astype(np.float32)
        nibbles = span[..., -16:]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        if self.code_bits == 5:
            codes |= np.unpackbits(span[..., 4:8], axis=-1, bitorder="little") << 4
        arrays = {"d": halves[..., 0], "m": halves[..., 1]}
        params = Params({n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()})
        return torch.from_numpy(codes.reshape(len(packed), cols)), params


_NIBBLES = "16 bytes: code e in the low half of byte e, code e + 16 in the high half"
Q4_1 = Shifted(
    "Q4_1",
    4,
    15860,
    (29, 30, 31, 32),
    0.14,
    f"d, m: binary16; {_NIBBLES}",
    "GGUF specification, quantization type Q4_1",
)
Q5_1 = Shifted(
    "Q5_1",
    5,
    15780,
    (62, 63, 64, 65),
    0.07,
    f"d, m: binary16; 4 bytes: bit e is the fifth bit of code e; {_NIBBLES}",
    "GGUF specification, quantization type Q5_1",
)
