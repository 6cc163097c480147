"""GGUF's formats of E2M1 numbers: MXFP4, with a power of two per 32 columns, and NVFP4, with an E4M3 scale per 16.

Scales are stated for twice the E2M1 number, because the largest power of two has no binary32 number of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import divided, fitted_scale, inverse, lane_sum, ordered_sum
from fewbits.formats.grids import TableGrid
from fewbits.formats.minifloat import E2M1, E4M3, exponent_of, power_of_two
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

LOWEST, HIGHEST = 2, 252
"""Codes of the powers of two that are chosen: smaller ones have no inverse, larger ones could give infinite numbers."""

NEIGHBOURS = (0, -2, -1, 1, 2, 3, 4, 5, 6)
"""Scales that NVFP4 tries: codes beside that of a sixth of the largest magnitude."""


@dataclass(frozen=True)
class E2M1Grid(TableGrid):
    """Twice the E2M1 numbers, times the scale; a number halfway goes to the even code."""

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 every code means the same and a zero is taken."""
        return E2M1.encode(0.5 * torch.where(self.scale != 0, x / self.scale, 0.0 * x))


def _table(device: torch.device) -> torch.Tensor:
    """What the codes mean; ggml's code 8 is the same zero as code 0."""
    return 2.0 * E2M1.numbers().to(device) + 0.0


def _nearest(y: torch.Tensor) -> torch.Tensor:
    """The nearest of 0, 1, 2, 3, 4, 6, 8, 12 to `y` >= 0; of two, the one with the even code."""
    y = y.clamp(max=12.0)
    wide = torch.where(y < 8.0, 2.0 * (0.5 * y).round(), 4.0 * (0.25 * y).round())
    return torch.where(y < 4.0, y.round(), wide)


@dataclass(frozen=True)
class E2M1Spans(GridCodec):
    """w = d * table[code], table[code] twice the E2M1 number `code`; a scale byte per `length` columns."""

    name: str
    length: int
    span: int
    span_bytes: int
    largest: float
    error_bound: float
    error_floor: float
    equation: str
    layout: str
    source: str
    rows: int = 1
    vector: int = 1

    @abstractmethod
    def steps(self, scale: torch.Tensor) -> torch.Tensor:
        """The steps d that the stored bytes `scale` mean."""

    @abstractmethod
    def _search(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The bytes of the scales of groups `x` (..., length) in the given weights, None for even ones."""

    @abstractmethod
    def _stored(self, d: torch.Tensor) -> torch.Tensor:
        """The bytes of the scales nearest to `d`; the smallest where it is not positive."""

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The bytes of the scales (rows, groups): searched for, or fitted to given codes (rows, cols)."""
        x = w.reshape(len(w), -1, self.length)
        given = None if importance is None else importance.expand_as(w).reshape(x.shape)
        if codes is None:
            return Params({"scale": self._search(x, given)})
        weight = torch.ones_like(x) if given is None else given
        table = _table(w.device)[codes.long()].reshape(x.shape)
        d = fitted_scale(x, table, weight)
        return Params({"scale": self._stored(d)})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> E2M1Grid:
        """What columns `cols` can become."""
        scale = self.steps(params["scale"]).repeat_interleave(self.length, 1)[:, cols]
        return E2M1Grid(scale, _table(scale.device))

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        half = codes.reshape(len(codes), -1, self.span // self.length, 2, self.length // 2).cpu().numpy()
        nibbles = half[..., 0, :] | half[..., 1, :] << 4
        scale = params["scale"].cpu().numpy().reshape(*half.shape[:3])
        parts = [scale, nibbles.reshape(*half.shape[:2], -1)]
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) and bytes of the scales (rows, groups), uint8."""
        rows, groups = len(packed), self.span // self.length
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        nibbles = span[..., groups:].reshape(rows, -1, groups, 1, self.length // 2)
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=3).reshape(rows, cols)
        scale = np.ascontiguousarray(span[..., :groups]).reshape(rows, -1)
        return torch.from_numpy(codes), Params({"scale": torch.from_numpy(scale)})


@dataclass(frozen=True)
class PowerScaled(E2M1Spans):
    """MXFP4: d = 2^(scale - 128).

    The power that makes the largest magnitude 8 to 16 steps, the last four of which are lost; or the next one: evenly
    weighted, above 14.5 steps, which is where the next one wins on most groups; else where its error is smaller.
    """

    def steps(self, scale: torch.Tensor) -> torch.Tensor:
        """The steps d that the stored bytes `scale` mean; 255 is no NaN in a GGUF file."""
        return power_of_two(scale.int() - 128)

    def _search(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        size = x.abs()
        most = size.amax(-1)
        scale = exponent_of(most) + 125
        if weight is None:
            scale = scale + (most > 1.8125 * power_of_two(exponent_of(most).clamp(min=-149))).int()
            return torch.where(most > 0, scale.clamp(LOWEST, HIGHEST), 0).to(torch.uint8)
        scale = scale.clamp(LOWEST, HIGHEST)
        y = size * power_of_two(128 - scale)[..., None]
        errors = []
        for step in (1.0, 2.0):
            r = step * _nearest(y * (1.0 / step)) - y
            errors.append(lane_sum((weight * r) * r))
        twice = (errors[1] < errors[0]) & (scale < HIGHEST)
        return torch.where(most > 0, scale + twice.int(), 0).to(torch.uint8)

    def _stored(self, d: torch.Tensor) -> torch.Tensor:
        exponent = exponent_of(d)
        exponent = exponent + (d >= 1.5 * power_of_two(exponent.clamp(min=-149))).int()
        return torch.where(d > 0, (exponent + 128).clamp(0, HIGHEST), 0).to(torch.uint8)


def _e4m3_steps() -> torch.Tensor:
    """What every byte means: half of E4M3 without its sign; 127 is 0, and 255 what would follow the largest."""
    d = E4M3.numbers()[:128].repeat(2) * 0.5
    d[127], d[255] = 0.0, 240.0
    return d


@dataclass(frozen=True)
class E4M3Scaled(E2M1Spans):
    """NVFP4: d = E4M3(scale) / 2, the best of nine scales around a sixth of the largest magnitude.

    Below 16, where the smallest numbers of E4M3 are coarse, only larger scales are tried.
    """

    def steps(self, scale: torch.Tensor) -> torch.Tensor:
        """The steps d that the stored bytes `scale` mean."""
        return _e4m3_steps().to(scale.device)[scale.long()]

    def _search(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        size = x.abs()
        weight = torch.ones_like(x) if weight is None else weight
        most = size.amax(-1)
        first = E4M3.encode(divided(most, 6.0)).int().clamp(min=1)
        best, scale = torch.full_like(most, torch.inf), first
        for neighbour in NEIGHBOURS:
            near = (first + neighbour).clamp(max=E4M3.top)
            near = torch.where((near < 8) & (near < first), first, near)
            d = self.steps(near)
            r = d[..., None] * _nearest(size * inverse(d)[..., None]) - size
            error = ordered_sum((weight * r) * r)
            scale = torch.where(error < best, near, scale)
            best = torch.where(error < best, error, best)
        return torch.where(most > 0, scale, 0).to(torch.uint8)

    def _stored(self, d: torch.Tensor) -> torch.Tensor:
        return E4M3.encode((2.0 * d).clamp(min=0.0))


_HALVES = "code e in the low half of byte e, code e + {0} in the high half"
MXFP4 = PowerScaled(
    "MXFP4",
    32,
    32,
    17,
    3.4028234663852886e38,
    0.25,
    2.0**-126,
    "w = 2^(scale - 128) * 2 E2M1(code)",
    f"scale: one byte; 16 bytes: {_HALVES.format(16)}",
    "GGUF specification, quantization type MXFP4; OCP Microscaling Formats (MX) 1.0",
)
NVFP4 = E4M3Scaled(
    "NVFP4",
    16,
    64,
    36,
    2688.0,
    0.25,
    2.0**-8,
    "w = E4M3(scale) / 2 * 2 E2M1(code)",
    f"4 bytes: the scales of four groups of 16; 8 bytes per group: {_HALVES.format(8)}",
    "ggml-common.h, block_nvfp4",
)
