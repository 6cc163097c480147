"""GGUF's formats with one 16-bit scale per 32 columns: Q4_0, Q5_0 and Q8_0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import (
    best_even_scale,
    best_scale,
    by_row_spread,
    divided,
    evenly_or,
    fitted_scale,
    stored_half,
)
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 32
_SOURCE = "GGUF specification, quantization type {}"


@dataclass(frozen=True)
class Symmetric(GridCodec):
    """w = d * (code - top): codes of `code_bits` bits, one binary16 scale d per span of 32 columns.

    The scale is searched for in `even_steps` (see `exact.best_even_scale`) or, where importance is given, among
    `weighted_levels` (`exact.best_scale`); without them it is the largest magnitude over the largest code. d may be
    negative: the longer side of the codes takes the largest element.
    """

    name: str
    code_bits: int
    error_bound: float
    layout: str
    source: str
    even_whole: int = 0
    even_steps: tuple[int, ...] = ()
    weighted_levels: tuple[float, ...] = ()
    span: int = SPAN
    rows: int = 1
    vector: int = 1

    def __post_init__(self) -> None:
        assert self.span_bytes == 2 + SPAN * self.code_bits // 8, "a scale of two bytes and the codes, nothing else"

    @property
    def top(self) -> int:
        """The code that means 0."""
        return int(2 ** (self.code_bits - 1))

    @property
    def equation(self) -> str:
        """What a code means."""
        return f"w = d * (code - {self.top})" if self.even_steps else "w = d * code"

    @property
    def span_bytes(self) -> int:
        """Bytes of the scale and of 32 codes."""
        return 2 + SPAN * self.code_bits // 8

    @property
    def largest(self) -> float:
        """The largest scale times the largest code on both sides."""
        return 65504.0 * (self.top - 1)

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest scales times the largest code."""
        return 2.0**-25 * self.top

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
            steps = codes.float().reshape(x.shape) - self.top
            d = fitted_scale(x, steps, weight)
        elif self.even_steps and importance is None:
            d = best_even_scale(x, self.even_whole, self.even_steps, self.top)
        elif self.even_steps:
            d = best_scale(x, weight, self.top, self.weighted_levels)
        else:
            d = divided(x.abs().amax(-1), self.top - 1)
        return Params({"d": stored_half(d)})

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(the row's mean square + w^2)."""
        return by_row_spread(w, importance)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = params["d"].repeat_interleave(SPAN, 1)[:, cols]
        # Q8_0 keeps to the symmetric codes -127 .. 127: code 0 is never chosen.
        return UniformGrid(
            scale, torch.zeros_like(scale), 2 * self.top - 1, self.top, bottom=0 if self.even_steps else 1
        )

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        d = params["d"].half().cpu().numpy()
        span = codes.reshape(len(codes), -1, SPAN).cpu().numpy()
        scale = d[..., None].view(np.uint8)
        if self.code_bits == 8:
            parts = [scale, (span.astype(np.int16) - self.top).astype(np.int8).view(np.uint8)]
        else:
            nibbles = ((span[..., :16] & 15) | (span[..., 16:] & 15) << 4).astype(np.uint8)
            fifth = [np.packbits(span >> 4, axis=-1, bitorder="little")] if self.code_bits == 5 else []
            parts = [scale, *fifth, nibbles]
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and d (rows, spans)."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., :2]).view(np.float16)[..., 0].astype(np.float32)
        if self.code_bits == 8:
            codes = (span[..., 2:].view(np.int8).astype(np.int16) + self.top).astype(np.uint8)
        else:
            nibbles = span[..., -16:]
            codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        if self.code_bits == 5:
            codes |= np.unpackbits(span[..., 2:6], axis=-1, bitorder="little") << 4
        return torch.from_numpy(codes.reshape(len(packed), cols)), Params({"d": torch.from_numpy(d)})


Q4_0 = Symmetric(
    "Q4_0",
    4,
    0.3,
    "d: binary16; 16 bytes: code e in the low half of byte e, code e + 16 in the high half",
    _SOURCE.format("Q4_0"),
    even_whole=19728,
    even_steps=(12, 13, 14),
    weighted_levels=(*(6.0 + 0.25 * i for i in range(13)), 9.5, 10.25, 11.5),
)
Q5_0 = Symmetric(
    "Q5_0",
    5,
    0.15,
    "d: binary16; 4 bytes: bit e is the fifth bit of code e; 16 bytes: low halves as in Q4_0",
    _SOURCE.format("Q5_0"),
    even_whole=20744,
    even_steps=(24, 25, 26),
    weighted_levels=(*(12.0 + 0.5 * i for i in range(13)), 19.0, 20.5),
)
Q8_0 = Symmetric("Q8_0", 8, 0.0045, "d: binary16; 32 signed bytes", _SOURCE.format("Q8_0"))
