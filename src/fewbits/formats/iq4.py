"""GGUF's formats with a table of sixteen uneven numbers: IQ4_NL, and IQ4_XS with scales of two levels.

Candidates divide the largest number of a group by several numbers on both sides of the table, each refitted by least
squares; the native kernels do the same steps in the same order, and give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import by_spread, divided, extreme, fitted_scale, inverse, ordered_sum, stored_half
from fewbits.formats.grids import TableGrid, nearest_in
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

LENGTH = 32
TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the sixteen codes mean before the scale: close together where weights are many."""

LEVELS = (-168.0, -148.0, -136.0, -130.0, -126.0, -122.0, -110.0, -104.0, -86.0, 90.0, 110.0, 114.0, 120.0, 134.0)
"""What the largest number of a group becomes, in turn; found by trial on models and random numbers."""

_SOURCE = "GGUF specification, quantization type {}"


def _table(like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(TABLE, dtype=torch.float32, device=like.device)


def _rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The table's numbers nearest to x / scale: x (..., n), scale (...)."""
    table = _table(x)
    return table[nearest_in(table, x * inverse(scale)[..., None])]


def _error(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    r = scale[..., None] * numbers - x
    return ordered_sum((weight * r) * r)


def _own_weights(x: torch.Tensor) -> torch.Tensor:
    """Of groups (..., n) without importance. ggml takes w^2 alone; as in Q6_K half of the weight is even."""
    return x * x + (ordered_sum(x * x) * (1.0 / x.shape[-1]))[..., None]


def _best_scale(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The scale of groups x (..., n) that removes most of the weighted energy, of one candidate per level."""
    table, inverse_extreme = _table(x), inverse(extreme(x))
    best, scale = torch.zeros_like(inverse_extreme), torch.zeros_like(inverse_extreme)
    for level in LEVELS:
        numbers = table[nearest_in(table, x * (level * inverse_extreme)[..., None])]
        weighted = weight * numbers
        slx, sll = ordered_sum(weighted * x), ordered_sum(weighted * numbers)
        candidate = slx * inverse(sll)
        gain = candidate * slx
        scale = torch.where(gain > best, candidate, scale)
        best = torch.where(gain > best, gain, best)
    return scale


def _halves(codes: torch.Tensor) -> Bytes:
    """Two codes to a byte, (rows, groups, 16)."""
    group = codes.reshape(len(codes), -1, LENGTH).cpu().numpy()
    packed: Bytes = group[..., :16] | group[..., 16:] << 4
    return packed


def _codes(packed: Bytes, cols: int) -> torch.Tensor:
    """Codes (rows, cols) of (rows, ..., bytes of whole groups)."""
    halves = packed.reshape(len(packed), -1, 16)
    return torch.from_numpy(np.concatenate([halves & 15, halves >> 4], axis=-1).reshape(len(packed), cols))


@dataclass(frozen=True)
class Tabled(GridCodec):
    """w = d * table[code]: four-bit codes, one binary16 scale d of either sign per 32 columns.

    Squared errors are weighted by w^2 + the mean square of the span unless importance is given.
    """

    name: str = "IQ4_NL"
    error_bound: float = 0.25
    layout: str = "d: binary16; 16 bytes: code e in the low half of byte e, code e + 16 in the high half"
    source: str = _SOURCE.format("IQ4_NL")
    equation: str = "w = d * table[code]"
    span: int = LENGTH
    span_bytes: int = 18
    rows: int = 1
    vector: int = 1

    def __post_init__(self) -> None:
        assert self.span_bytes == 2 + LENGTH * 4 // 8, "a scale of two bytes and the codes, nothing else"

    @property
    def largest(self) -> float:
        """The largest d times the table's shorter side."""
        return 65504.0 * 113

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest number of the table."""
        return 2.0**-25 * 127

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(2 * the span's mean square + w^2)."""
        return by_spread(w, importance, self.span)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale d (rows, spans): searched for, or fitted to given codes (rows, cols) by least squares."""
        x = w.reshape(len(w), -1, LENGTH)
        weight = _own_weights(x) if importance is None else importance.expand_as(w).reshape(x.shape)
        if codes is None:
            d = _best_scale(x, weight)
        else:
            weighted = weight * (numbers := _table(x)[codes.reshape(x.shape).long()])
            d = ordered_sum(weighted * x) * inverse(ordered_sum(weighted * numbers))
        return Params({"d": stored_half(d)})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> TableGrid:
        """What columns `cols` can become."""
        return TableGrid(params["d"].repeat_interleave(LENGTH, 1)[:, cols], _table(params["d"]))

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        d = params["d"].half().cpu().numpy()[..., None].view(np.uint8)
        return np.concatenate([d, _halves(codes)], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and d (rows, spans)."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., :2]).view(np.float16)[..., 0].astype(np.float32)
        return _codes(span[..., 2:], cols), Params({"d": torch.from_numpy(d)})


@dataclass(frozen=True)
class TabledK(GridCodec):
    """w = (d * (scale[g] - 32)) * table[code]: 8 groups of 32 columns, six-bit scales, four-bit codes.

    Fitted as Q6_K is: the best scale per group, the neighbours of each rounded scale, then d by least squares. Squared
    errors are weighted by w^2 + the mean square of the group unless importance is given.
    """

    name: str = "IQ4_XS"
    error_bound: float = 0.25
    layout: str = (
        "d: binary16; 2 bytes: upper two bits of 8 scales; 4 bytes: their lower four bits; 128 bytes: 16 per group as "
        "in IQ4_NL"
    )
    source: str = _SOURCE.format("IQ4_XS")
    equation: str = "w = (d * (scale[g] - 32)) * table[code]"
    span: int = 256
    span_bytes: int = 136
    rows: int = 1
    vector: int = 1

    def __post_init__(self) -> None:
        assert self.span_bytes == 2 + self.span // LENGTH * 6 // 8 + self.span // 2, "d, scales and codes, nothing else"

    @property
    def largest(self) -> float:
        """The largest d times the largest scale and number on both sides."""
        return 65504.0 * 31 * 113

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest scale and number."""
        return 2.0**-25 * 32 * 127

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(2 * the span's mean square + w^2)."""
        return by_spread(w, importance, self.span)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The parameters d (rows, spans) and scale (rows, 8 * spans), whole numbers -32 .. 31."""
        x = w.reshape(len(w), -1, self.span // LENGTH, LENGTH)
        weight = _own_weights(x) if importance is None else importance.expand_as(w).reshape(x.shape)
        fixed = None if codes is None else _table(x)[codes.reshape(x.shape).long()]
        line = _best_scale(x, weight) if fixed is None else fitted_scale(x, fixed, weight)
        d = stored_half(divided(extreme(line), -32.0))
        scale = (line * inverse(d)[..., None]).round().clamp(-32, 31)
        scale, before = self._neighbours(x, weight, fixed, d, scale)
        numbers = _rounded(x, d[..., None] * scale) if fixed is None else fixed
        weighted = weight * numbers
        a = ordered_sum((scale * scale) * ordered_sum(weighted * numbers))
        p = ordered_sum(scale * ordered_sum(weighted * x))
        new_d = torch.where(a > 0, stored_half(p / a), d)
        after = ordered_sum(self._group_error(x, weight, fixed, new_d, scale))
        return Params({"d": torch.where(after < before, new_d, d), "scale": scale.reshape(len(w), -1)})

    def _group_error(
        self, x: torch.Tensor, weight: torch.Tensor, fixed: torch.Tensor | None, d: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        step = d[..., None] * scale
        return _error(x, weight, step, _rounded(x, step) if fixed is None else fixed)

    def _neighbours(
        self, x: torch.Tensor, weight: torch.Tensor, fixed: torch.Tensor | None, d: torch.Tensor, rounded: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of each rounded scale and its neighbours, and the error of the whole span."""
        scale, error = rounded, self._group_error(x, weight, fixed, d, rounded)
        for step in (-1.0, 1.0):
            near = (rounded + step).clamp(-32, 31)
            candidate = self._group_error(x, weight, fixed, d, near)
            scale = torch.where(candidate < error, near, scale)
            error = torch.where(candidate < error, candidate, error)
        return scale, ordered_sum(error)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> TableGrid:
        """What columns `cols` can become."""
        scale = params["d"].repeat_interleave(self.span // LENGTH, 1) * params["scale"]
        return TableGrid(scale.repeat_interleave(LENGTH, 1)[:, cols], _table(scale))

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        scale = (params["scale"].cpu().numpy() + 32).astype(np.uint8).reshape(len(codes), -1, 8)
        places = (2 * np.arange(8)).astype(np.uint16)
        high = ((scale >> 4).astype(np.uint16) << places).sum(-1, dtype=np.uint16)[..., None]
        low = (scale[..., 0::2] & 15) | (scale[..., 1::2] & 15) << 4
        d = params["d"].half().cpu().numpy()[..., None]
        q = _halves(codes).reshape(*scale.shape[:2], -1)
        parts = [d.view(np.uint8), high.view(np.uint8), low, q]
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., :2]).view(np.float16)[..., 0].astype(np.float32)
        high = np.ascontiguousarray(span[..., 2:4]).view(np.uint16) >> (2 * np.arange(8)).astype(np.uint16) & 3
        low = np.stack([span[..., 4:8] & 15, span[..., 4:8] >> 4], axis=-1).reshape(high.shape)
        scale = (low + 16 * high).astype(np.float32).reshape(len(packed), -1) - 32
        params = Params({"d": torch.from_numpy(d), "scale": torch.from_numpy(scale)})
        return _codes(span[..., 8:], cols), params


IQ4_NL = Tabled()
IQ4_XS = TabledK()
