"""GGUF's format with a 16-bit scale and a 16-bit minimum per 32 columns: Q5_1, the stand-in for Q5_K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import SINGULAR, divided, inverse, ordered_sum, stored_half
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 32
NARROWEST = 1e-30
"""A range below this counts as this: its inverse stays finite, and no 16-bit scale could tell the difference."""


@dataclass(frozen=True)
class Shifted(GridCodec):
    """w = d * code + m: five-bit codes, a binary16 scale d and a binary16 minimum m of either sign per 32 columns.

    Squared errors count evenly unless importance is given. Of the least-squares lines through the codes of several
    ranges the best is taken, or the plain line from the smallest to the largest number where that one, as stored, is
    nearer: numbers far from zero in a narrow range suffer more from the rounding of m than from anything else.
    """

    name: str = "Q5_1"
    levels: tuple[float, ...] = (30.0, 30.375, 30.75, 31.125, 31.5)
    error_bound: float = 0.07
    layout: str = (
        "d, m: binary16; 4 bytes: bit e is the fifth bit of code e; 16 bytes: code e in the low half of byte e, "
        "code e + 16 in the high half"
    )
    source: str = "GGUF specification, quantization type Q5_1"
    equation: str = "w = d * code + m"
    span: int = SPAN
    span_bytes: int = 24
    rows: int = 1
    vector: int = 1
    top: int = 31

    def __post_init__(self) -> None:
        assert self.span_bytes == 4 + SPAN * 5 // 8, "two numbers of two bytes and the codes, nothing else"

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
        weight = torch.ones_like(x) if importance is None else importance.expand_as(w).reshape(x.shape)
        if codes is not None:
            return self._at_codes(x, weight, codes.float().reshape(x.shape))
        low = x.amin(-1) + 0.0  # which zero is the smallest depends on the machine; this makes it +0
        range_ = (x.amax(-1) - low) + 0.0
        plain_d, plain_m = stored_half(divided(range_, float(self.top))), stored_half(low)
        d, m = (stored_half(line) for line in self._line(x, weight, low, range_))
        better = self._error(x, weight, d, m) < self._error(x, weight, plain_d, plain_m)
        return Params({"d": torch.where(better, d, plain_d), "m": torch.where(better, m, plain_m)})

    def _line(
        self, x: torch.Tensor, weight: torch.Tensor, low: torch.Tensor, range_: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best line d * code + m over candidate ranges, each starting where the best line so far does."""
        y = x - low[..., None]
        sw, sy, syy = ordered_sum(weight), ordered_sum(weight * y), ordered_sum((weight * y) * y)
        best, scale, start = torch.full_like(sw, torch.inf), torch.zeros_like(sw), torch.zeros_like(sw)
        for level in self.levels:
            width = (range_ - start).clamp(min=NARROWEST)
            inv = torch.full_like(width, level) / width
            codes = ((y - start[..., None]) * inv[..., None]).round().clamp(0, self.top)
            weighted = weight * codes
            sl, sll, sly = ordered_sum(weighted), ordered_sum(weighted * codes), ordered_sum(weighted * y)
            product = sw * sll
            det = product - sl * sl
            a, b = (sw * sly - sy * sl) / det, (sll * sy - sl * sly) / det
            error = (syy + a * ((a * sll - 2.0 * sly) + (2.0 * b) * sl)) + b * (b * sw - 2.0 * sy)
            better = (det > SINGULAR * product) & (error < best)
            best = torch.where(better, error, best)
            scale = torch.where(better, a, scale)
            start = torch.where(better, b, start)
        return scale, low + start

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

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale, m = (params[name].repeat_interleave(SPAN, 1)[:, cols] for name in ("d", "m"))
        return UniformGrid(scale, -m, self.top)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        span = codes.reshape(len(codes), -1, SPAN).cpu().numpy()
        halves = np.stack([params[n].half().cpu().numpy() for n in ("d", "m")], axis=-1).view(np.uint8)
        fifth = np.packbits(span >> 4, axis=-1, bitorder="little")
        nibbles = (span[..., :16] & 15) | (span[..., 16:] & 15) << 4
        return np.concatenate([halves, fifth, nibbles], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8, d and m (rows, spans)."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        halves = np.ascontiguousarray(span[..., :4]).view(np.float16).astype(np.float32)
        nibbles = span[..., 8:]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        codes |= np.unpackbits(span[..., 4:8], axis=-1, bitorder="little") << 4
        arrays = {"d": halves[..., 0], "m": halves[..., 1]}
        params = Params({n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()})
        return torch.from_numpy(codes.reshape(len(packed), cols)), params


Q5_1 = Shifted()
