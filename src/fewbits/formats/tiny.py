"""GGUF's smallest formats, with one 16-bit scale: Q1_0, the signs of 128 columns, and Q2_0, four steps for 64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import evenly_or, fitted_scale, inverse, lane_sum, ordered_sum, stored_half
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

OF_MEAN, OF_CUBIC_MEAN = 0.5, 0.25
"""The step whose codes Q2_0 tries: shares of the span's mean magnitude, where magnitudes weigh as much as they are
large, and of the one where they weigh as much as their squares are."""


@dataclass(frozen=True)
class SignGrid(UniformGrid):
    """d or -d, by the sign; `offset` is d."""

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """1 where d is the nearer one; zero counts as positive."""
        return ((x >= 0) == (self.offset >= 0)).to(torch.uint8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return torch.where(codes > 0, self.offset, -self.offset)


@dataclass(frozen=True)
class Signs(GridCodec):
    """w = d * (2 code - 1): one bit per column and one binary16 scale d, the mean magnitude, per 128 columns."""

    name: str = "Q1_0"
    span: int = 128
    span_bytes: int = 18
    rows: int = 1
    vector: int = 1
    equation: str = "w = d * (2 code - 1)"
    layout: str = "d: binary16; 16 bytes: bit e % 8 of byte e / 8 is code e"
    source: str = "ggml-common.h, block_q1_0"
    largest: float = 65504.0
    error_bound: float = 0.993
    error_floor: float = 2.0**-25

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale d (rows, spans): what is best at given codes (rows, cols), or at the signs."""
        x = w.reshape(len(w), -1, self.span)
        weight = evenly_or(importance, w, x)
        size = x.abs() if codes is None else torch.where(codes.reshape(x.shape) > 0, x, -x)
        return Params({"d": stored_half(lane_sum(weight * size) * inverse(lane_sum(weight)))})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> SignGrid:
        """What columns `cols` can become."""
        d = params["d"].repeat_interleave(self.span, 1)[:, cols]
        return SignGrid(2.0 * d, d, 1)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        bits = np.packbits(codes.reshape(len(codes), -1, self.span).cpu().numpy(), axis=-1, bitorder="little")
        return _beside_scale(params, bits)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and d (rows, spans)."""
        span, params = _scale_of(packed, self.span_bytes)
        codes = np.unpackbits(span, axis=-1, bitorder="little")
        return torch.from_numpy(codes.reshape(len(packed), cols)), params


@dataclass(frozen=True)
class FourSteps(GridCodec):
    """w = d * (code - 1): codes 0 to 3 and one binary16 scale d per 64 columns.

    d may be negative, so that either side of zero can have the two steps. The codes of one step of both signs are
    tried, each with the d that fits them best; the one that removes most of the energy wins.
    """

    name: str = "Q2_0"
    span: int = 64
    span_bytes: int = 18
    rows: int = 1
    vector: int = 1
    equation: str = "w = d * (code - 1)"
    layout: str = "d: binary16; 16 bytes: bits 2n and 2n + 1 of byte i hold code 4 i + n"
    source: str = "ggml-common.h, block_q2_0"
    largest: float = 65504.0
    error_bound: float = 0.95
    error_floor: float = 2.0**-24

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale d (rows, spans): searched for, or fitted to given codes (rows, cols) by least squares."""
        x = w.reshape(len(w), -1, self.span)
        weight = evenly_or(importance, w, x)
        if codes is not None:
            steps = codes.float().reshape(x.shape) - 1
            d = fitted_scale(x, steps, weight)
        else:
            d = _best_step(x, weight)
        return Params({"d": stored_half(d)})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = params["d"].repeat_interleave(self.span, 1)[:, cols]
        return UniformGrid(scale, torch.zeros_like(scale), 3, 1)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        fields = codes.reshape(len(codes), -1, 16, 4).cpu().numpy() << np.array([0, 2, 4, 6], np.uint8)
        return _beside_scale(params, np.bitwise_or.reduce(fields, axis=-1))

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and d (rows, spans)."""
        span, params = _scale_of(packed, self.span_bytes)
        codes = span[..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
        return torch.from_numpy(codes.reshape(len(packed), cols)), params


def _best_step(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The best d of spans `x` (..., 64) in the given weights."""
    size, zero = x.abs(), torch.zeros_like(x)
    weighted = weight * size
    sx, sxx, sxxx = (ordered_sum(each) for each in (weighted, weighted * size, weighted * size * size))
    step = (OF_MEAN * (sxx * inverse(sx)) + OF_CUBIC_MEAN * (sxxx * inverse(sxx)))[..., None]

    def best(two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best size of d where the elements `two` are coded by two steps, and the energy that it removes."""
        total, squares = (
            ordered_sum(torch.where(size > 0.5 * step, each, zero)) + factor * ordered_sum(torch.where(two, each, zero))
            for each, factor in ((weighted, 1.0), (weight, 3.0))
        )
        return total * inverse(squares), total * inverse(squares) * total

    (up, gain), (down, other_gain) = best(x > 1.5 * step), best(x < -1.5 * step)
    return torch.where(other_gain > gain, -down, up)


def _beside_scale(params: Params, bits: Bytes) -> Bytes:
    """The bytes (rows, spans, 16) of the codes behind their scales: (rows, bytes per row)."""
    scale = params["d"].half().cpu().numpy()[..., None].view(np.uint8)
    return np.concatenate([scale, bits], axis=-1).reshape(len(bits), -1)


def _scale_of(packed: Bytes, span_bytes: int) -> tuple[Bytes, Params]:
    """The bytes of the codes (rows, spans, bytes), and the scales."""
    span = np.ascontiguousarray(packed).reshape(len(packed), -1, span_bytes)
    d = np.ascontiguousarray(span[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    return span[..., 2:], Params({"d": torch.from_numpy(d)})


Q1_0 = Signs()
Q2_0 = FourSteps()
