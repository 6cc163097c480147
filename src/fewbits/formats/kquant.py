"""GGUF's two-level formats with minimums over spans of 256 columns: Q4_K and Q5_K, and how they are searched.

Scales are themselves quantized: a group's scale is a small whole number times the span's binary16 scale d. Fitting goes
from groups to span: the best line per group, then neighbours of its rounded scale, then d again by least squares. The
native kernels do the same steps in the same order, and give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import SINGULAR, by_spread, divided, inverse, ordered_sum, square_root, stored_half
from fewbits.formats.grids import UniformGrid
from fewbits.formats.kquant_bits import pack_sixths, unpack_sixths
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 256
WEIGHTED_ROUNDS = 3
"""How often scales and minimums, then d and dmin, are fitted to each other where importance is given; else once."""


class _Groups(NamedTuple):
    """Numbers and weights of all groups, (rows, spans, groups, length), and two weighted sums of each group."""

    x: torch.Tensor
    w: torch.Tensor
    sum_w: torch.Tensor
    sum_wx: torch.Tensor


@dataclass(frozen=True)
class Affine(GridCodec):
    """w = (d * scale[g]) * code - dmin * min[g]: groups of `length` columns; whole scales and minimums, both >= 0.

    Squared errors are weighted by even * av + |w| unless importance is given; av is the group's root mean square.
    """

    name: str
    code_bits: int
    levels: tuple[float, ...]
    error_bound: float
    layout: str
    source: str
    equation: str = "w = (d * scale[g]) * code - dmin * min[g]"
    span: int = SPAN
    rows: int = 1
    vector: int = 1
    length: int = 32
    scale_bits: int = 6
    weighted_levels: tuple[float, ...] = ()
    """Tried where importance is given; `levels` where there are none."""
    even: float = 1.0
    around: int = 2
    """How many times the span's mean square counts in the weights of importance."""

    def __post_init__(self) -> None:
        assert 2 * self.scale_bits * SPAN % (8 * self.length) == 0, "scales and minimums fill whole bytes"

    @property
    def ceiling(self) -> float:
        """The largest scale and minimum of a group."""
        return float(2**self.scale_bits - 1)

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.code_bits - 1)

    @property
    def span_bytes(self) -> int:
        """Bytes of the scales and of 256 codes."""
        return 4 + 2 * self.scale_bits * SPAN // self.length // 8 + SPAN * self.code_bits // 8

    @property
    def largest(self) -> float:
        """Limited by dmin times the largest minimum."""
        return 65504.0 * self.ceiling

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest scale and code, and of dmin."""
        return 2.0**-25 * self.ceiling * (self.top + 1)

    def _groups(self, w: torch.Tensor, importance: torch.Tensor | None) -> _Groups:
        x = w.reshape(len(w), -1, SPAN // self.length, self.length)
        if importance is None:
            average = square_root(ordered_sum(x * x) * (1.0 / self.length))
            weight = (self.even * average)[..., None] + x.abs()
        else:
            weight = importance.expand_as(w).reshape(x.shape)
        return _Groups(x, weight, ordered_sum(weight), ordered_sum(weight * x))

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The parameters d, dmin (rows, spans) and scale, min (rows, 8 * spans)."""
        groups = self._groups(w, importance)
        fixed = None if codes is None else codes.float().reshape(groups.x.shape)
        levels = self.levels if importance is None else self.weighted_levels or self.levels
        scale, low = self._lines(groups, levels, fixed)
        d, dmin = (stored_half(divided(largest.amax(-1), self.ceiling)) for largest in (scale, low))
        scale = (scale * inverse(d)[..., None]).round().clamp(0, self.ceiling)
        low = (low * inverse(dmin)[..., None]).round().clamp(0, self.ceiling)
        for _ in range(1 if importance is None else WEIGHTED_ROUNDS):
            scale, low = self._neighbours(groups, fixed, d, dmin, scale, low)
            d, dmin = self._refit(groups, fixed, d, dmin, scale, low)
        rows = len(w)
        return Params({"d": d, "dmin": dmin, "scale": scale.reshape(rows, -1), "min": low.reshape(rows, -1)})

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(around * the span's mean square + w^2)."""
        return by_spread(w, importance, SPAN, self.around)

    def _lines(
        self, groups: _Groups, levels: tuple[float, ...], fixed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best line scale * code - min per group, over candidate ranges or at fixed codes."""
        x, w, sw, _ = groups
        low = torch.minimum(x.amin(-1), torch.zeros_like(sw))
        y, at_zero = x - low[..., None], 0.0 - low
        sy, syy = ordered_sum(w * y), ordered_sum((w * y) * y)
        best, best_scale_, start = torch.full_like(sw, torch.inf), torch.zeros_like(sw), torch.zeros_like(sw)
        for level in levels if fixed is None else (1.0,):
            inv = level * inverse((x.amax(-1) - low - start).clamp(min=0.0))
            codes = ((y - start[..., None]) * inv[..., None]).round().clamp(0, self.top) if fixed is None else fixed
            weighted = w * codes
            sl, sll, sly = ordered_sum(weighted), ordered_sum(weighted * codes), ordered_sum(weighted * y)
            product = sw * sll
            det = product - sl * sl
            free_start = (sll * sy - sl * sly) / det
            free = (det > SINGULAR * product) & (free_start < at_zero)
            scale = torch.where(free, (sw * sly - sy * sl) / det, (sly - at_zero * sl) / sll)
            b = torch.where(free, free_start, at_zero)
            error = (syy + scale * ((scale * sll - 2.0 * sly) + (2.0 * b) * sl)) + b * (b * sw - 2.0 * sy)
            better = (sll > 0) & (error < best)
            best = torch.where(better, error, best)
            best_scale_ = torch.where(better, scale, best_scale_)
            start = torch.where(better, b, start)
        return best_scale_.clamp(min=0.0), (at_zero - start).clamp(min=0.0)

    def _codes(self, x: torch.Tensor, scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return ((x + low[..., None]) * inverse(scale)[..., None]).round().clamp(0, self.top)

    def _error(
        self, groups: _Groups, scale: torch.Tensor, low: torch.Tensor, fixed: torch.Tensor | None = None
    ) -> torch.Tensor:
        codes = self._codes(groups.x, scale, low) if fixed is None else fixed
        r = (scale[..., None] * codes - low[..., None]) - groups.x
        return ordered_sum((groups.w * r) * r)

    def _neighbours(
        self,
        groups: _Groups,
        fixed: torch.Tensor | None,
        d: torch.Tensor,
        dmin: torch.Tensor,
        scale: torch.Tensor,
        low: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rounded scales' neighbours, each with the minimum that fits it best; the better stays."""
        d, dmin = d[..., None], dmin[..., None]
        rounded, error = scale, self._error(groups, d * scale, dmin * low, fixed)
        sl = ordered_sum(groups.w * (self._codes(groups.x, d * scale, dmin * low) if fixed is None else fixed))
        for step in (-1.0, 0.0, 1.0):
            near = (rounded + step).clamp(0, self.ceiling)
            fitting = ((d * near) * sl - groups.sum_wx) * inverse(groups.sum_w)
            near_low = (fitting * inverse(dmin)).round().clamp(0, self.ceiling)
            candidate = self._error(groups, d * near, dmin * near_low, fixed)
            better = candidate < error
            error = torch.where(better, candidate, error)
            scale = torch.where(better, near, scale)
            low = torch.where(better, near_low, low)
        return scale, low

    def _refit(
        self,
        groups: _Groups,
        fixed: torch.Tensor | None,
        d: torch.Tensor,
        dmin: torch.Tensor,
        scale: torch.Tensor,
        low: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New d and dmin by least squares over the span, where the error falls."""
        steps = self._codes(groups.x, d[..., None] * scale, dmin[..., None] * low) if fixed is None else fixed
        weighted = groups.w * steps
        a = ordered_sum((scale * scale) * ordered_sum(weighted * steps))
        b = ordered_sum((scale * low) * ordered_sum(weighted))
        c = ordered_sum((low * low) * groups.sum_w)
        p = ordered_sum(scale * ordered_sum(weighted * groups.x))
        q = ordered_sum(low * groups.sum_wx)
        det = a * c - b * b
        regular = det > SINGULAR * (a * c)
        alone = ~regular & (c == 0) & (a > 0)
        new_d = torch.where(regular, (p * c - q * b) / det, torch.where(alone, p / a, d))
        new_dmin = torch.where(regular, (p * b - q * a) / det, dmin)
        new_d, new_dmin = stored_half(new_d.clamp(min=0.0)), stored_half(new_dmin.clamp(min=0.0))
        before = ordered_sum(self._error(groups, d[..., None] * scale, dmin[..., None] * low, fixed))
        after = ordered_sum(self._error(groups, new_d[..., None] * scale, new_dmin[..., None] * low, fixed))
        return torch.where(after < before, new_d, d), torch.where(after < before, new_dmin, dmin)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        per_span = SPAN // self.length
        scale = params["d"].repeat_interleave(per_span, 1) * params["scale"]
        low = params["dmin"].repeat_interleave(per_span, 1) * params["min"]
        return UniformGrid(
            scale.repeat_interleave(self.length, 1)[:, cols], low.repeat_interleave(self.length, 1)[:, cols], self.top
        )

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        q = codes.reshape(len(codes), -1, 8, self.length).cpu().numpy()
        halves = np.stack([params[n].half().cpu().numpy() for n in ("d", "dmin")], axis=-1).view(np.uint8)
        nibbles = ((q[:, :, 0::2] & 15) | (q[:, :, 1::2] & 15) << 4).reshape(*q.shape[:2], -1)
        parts = [halves, pack_sixths(params["scale"], params["min"], q.shape[1]), nibbles]
        if self.code_bits == 5:
            fifth = np.packbits(np.moveaxis(q >> 4, 2, -1), axis=-1, bitorder="little")[..., 0]
            parts.insert(2, fifth)
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        halves = np.ascontiguousarray(span[..., :4]).view(np.float16).astype(np.float32)
        scale, low = unpack_sixths(span[..., 4:16])
        nibbles = span[..., -128:].reshape(rows, -1, 4, 1, self.length)
        q = np.concatenate([nibbles & 15, nibbles >> 4], axis=3).reshape(rows, -1, 8, self.length)
        if self.code_bits == 5:
            fifth = np.unpackbits(span[..., 16:48, None], axis=-1, bitorder="little")
            q |= np.moveaxis(fifth, -1, 2) << 4
        arrays = {"d": halves[..., 0], "dmin": halves[..., 1], "scale": scale, "min": low}
        params = Params({n: torch.from_numpy(np.ascontiguousarray(a)).reshape(rows, -1) for n, a in arrays.items()})
        return torch.from_numpy(q.reshape(rows, cols)), params


_SCALES = "d, dmin: binary16; 12 bytes: 8 six-bit scales and 8 six-bit minimums; "
Q4_K = Affine(
    "Q4_K",
    4,
    (14.0, 14.34375, 14.6875, 15.0, 15.3125, 15.65625, 16.0),
    0.2,
    _SCALES + "128 bytes: groups 2p and 2p + 1 are the low and high halves of bytes 32p .. 32p + 31",
    "GGUF specification, quantization type Q4_K",
    weighted_levels=tuple(13.25 + 0.25 * i for i in range(13)),
)
Q5_K = Affine(
    "Q5_K",
    5,
    (30.3125, 30.59375, 30.875, 31.15625, 31.4375, 31.71875, 32.0),
    0.1,
    _SCALES + "32 bytes: bit g of byte e is the fifth bit of code e of group g; 128 bytes as in Q4_K",
    "GGUF specification, quantization type Q5_K",
    weighted_levels=tuple(29.25 + 0.25 * i for i in range(13)),
)
