"""GGUF's ternary formats, -d, 0 or d with one 16-bit scale per 256 columns: TQ1_0 and TQ2_0."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import evenly_or, fitted_scale, inverse, lane_sum, stored_half
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 256
OF_MEAN, OF_LARGEST = 0.5, 0.34375
"""Magnitudes above which a number counts as d or -d: shares of the span's mean magnitude, where magnitudes weigh as
much as they are large, and of its largest one."""


@dataclass(frozen=True)
class Ternary(GridCodec):
    """w = d * (code - 1): codes 0, 1 and 2, one binary16 scale d per span of 256 columns.

    For a threshold the best d is the mean magnitude of what lies above it. Of two thresholds the one that removes most
    of the energy wins.
    """

    name: str
    span_bytes: int
    layout: str
    span: int = SPAN
    rows: int = 1
    vector: int = 1
    equation: str = "w = d * (code - 1)"
    largest: float = 65504.0
    error_bound: float = 0.95
    error_floor: float = 2.0**-25

    @property
    def source(self) -> str:
        """Where the format is defined."""
        return f"GGUF specification, quantization type {self.name}"

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale d (rows, spans): searched for, or fitted to given codes (rows, cols) by least squares."""
        x = w.reshape(len(w), -1, SPAN)
        weight = evenly_or(importance, w, x)
        if codes is not None:
            steps = codes.float().reshape(x.shape) - 1
            d = fitted_scale(x, steps, weight, lane_sum)
        else:
            d = _best_scale(x.abs(), weight)
        return Params({"d": stored_half(d)})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = params["d"].repeat_interleave(SPAN, 1)[:, cols]
        return UniformGrid(scale, torch.zeros_like(scale), 2, 1)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        span = codes.reshape(len(codes), -1, SPAN).cpu().numpy()
        scale = params["d"].half().cpu().numpy()[..., None].view(np.uint8)
        return np.concatenate([*self._pack_codes(span), scale], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and d (rows, spans)."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., -2:]).view(np.float16)[..., 0].astype(np.float32)
        codes = np.ascontiguousarray(self._unpack_codes(span).reshape(len(packed), cols))
        return torch.from_numpy(codes), Params({"d": torch.from_numpy(d)})

    @abstractmethod
    def _pack_codes(self, span: Bytes) -> list[Bytes]:
        """The parts of the bytes before the scale, of codes (rows, spans, 256)."""

    @abstractmethod
    def _unpack_codes(self, span: Bytes) -> Bytes:
        """Codes (rows, spans, 256) of stored bytes (rows, spans, bytes per span)."""


def _best_scale(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The best d of spans of magnitudes `x` (..., 256) in the given weights."""
    weighted, zero = weight * x, torch.zeros_like(x)
    mean = lane_sum(weighted * x) * inverse(lane_sum(weighted))
    scale, best = torch.zeros_like(mean), torch.zeros_like(mean)
    for threshold in (mean * OF_MEAN, x.amax(-1) * OF_LARGEST):
        above = x > threshold[..., None]
        sx = lane_sum(torch.where(above, weighted, zero))
        d = sx * inverse(lane_sum(torch.where(above, weight, zero)))
        gain = d * sx
        scale = torch.where(gain > best, d, scale)
        best = torch.where(gain > best, gain, best)
    return scale


@dataclass(frozen=True)
class FiveTrits(Ternary):
    """Five codes to a byte, as the digits of a fraction: byte = ceil(256 / 243 * (81 a + 27 b + 9 c + 3 d + e))."""

    def _pack_codes(self, span: Bytes) -> list[Bytes]:
        parts = []
        for columns in _parts(span):
            values = np.array([81, 27, 9, 3], np.uint32)[:, None]
            number = (columns[:, :, :4] * values).sum(2)
            if columns.shape[2] == 5:
                number += columns[:, :, 4]
            parts.append(((256 * number + 242) // 243).astype(np.uint8))
        return parts

    def _unpack_codes(self, span: Bytes) -> Bytes:
        codes = []
        for first, last, places in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
            left = span[..., first:last]
            for _ in range(places):
                tripled = 3 * left.astype(np.uint16)
                codes.append((tripled >> 8).astype(np.uint8))
                left = tripled.astype(np.uint8)  # what is behind the digit
        return np.concatenate(codes, axis=-1)


def _parts(span: Bytes) -> list[Bytes]:
    """Codes (rows, spans, 256) as (rows, spans, digits of a byte, bytes), for the three parts of TQ1_0."""
    shape = span.shape[:2]
    bounds = ((0, 160, 5), (160, 240, 5), (240, 256, 4))
    return [span[..., first:last].reshape(*shape, digits, -1) for first, last, digits in bounds]


@dataclass(frozen=True)
class TwoBits(Ternary):
    """Four codes to a byte. A file may hold the code 3, which means 2 d; it is never chosen."""

    def _pack_codes(self, span: Bytes) -> list[Bytes]:
        fields = span.reshape(*span.shape[:2], 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
        return [np.bitwise_or.reduce(fields, axis=3).reshape(*span.shape[:2], 64)]

    def _unpack_codes(self, span: Bytes) -> Bytes:
        fields = span[..., :64].reshape(*span.shape[:2], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
        return np.asarray(fields & 3)


TQ1_0 = FiveTrits(
    "TQ1_0",
    54,
    "52 bytes of base-3 digits, the first digit the highest: byte i < 32 holds codes i, i + 32, ... i + 128; byte "
    "32 + i holds codes 160 + i, 176 + i, ... 224 + i; byte 48 + i holds codes 240 + i, ... 252 + i; d: binary16",
)
TQ2_0 = TwoBits(
    "TQ2_0",
    66,
    "64 bytes: bits 2n and 2n + 1 of byte 32 h + i hold code 128 h + 32 n + i; d: binary16",
)
