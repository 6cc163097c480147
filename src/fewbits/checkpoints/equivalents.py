"""Formats that are the same numbers under two names: a GGUF type, and a member of a family that lies in fields.

    Q4_0   int4_g32_sym_f16     d: binary16; 16 bytes, code i below code i + 16, counted from the lowest
    Q4_1   uint4_g32_bias_f16   d, m: binary16; 16 bytes, code i below code i + 16
    Q5_1   uint5_g32_bias_f16   d, m: binary16; 4 bytes, bit i the fifth of code i; 16 bytes as above
    Q8_0   int8_g32_sym_f16     d: binary16; 32 bytes, two's complement
    MXFP4  mxfp4                e: a power of two; 16 bytes, code i below code i + 16

What is stored of the one is moved to the places of the other: no number changes, and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fewbits.formats import Fields
from fewbits.formats.base import Bytes
from fewbits.formats.fields import pack_bits, unpack_bits

SPAN = 32


@dataclass(frozen=True)
class Equivalent:
    """One such pair."""

    rows: str
    """The GGUF type."""
    fields: str
    """The member of a family."""
    scale: str
    """numpy type of a scale."""
    bits: int
    turned: int = 0
    """What codes of the one are those of the other with these bits turned over."""
    numbers: tuple[str, ...] = ("scale",)
    """The fields of numbers that begin a span, all of one type."""

    def to_fields(self, data: Bytes) -> Fields:
        """Fields of stored bytes (rows, bytes per row)."""
        width = np.dtype(self.scale).itemsize
        head = width * len(self.numbers)
        spans = data.reshape(len(data), -1, head + SPAN * self.bits // 8)
        numbers = np.ascontiguousarray(spans[..., :head]).view(self.scale)
        codes = np.ascontiguousarray(self._side_by_side(spans[..., head:])).reshape(len(data), -1)
        return {"codes": codes, **{name: numbers[..., at].copy() for at, name in enumerate(self.numbers)}}

    def to_rows(self, fields: Fields) -> Bytes:
        """Stored bytes (rows, bytes per row) of fields."""
        rows, spans = fields["scale"].shape
        numbers = np.stack([fields[name] for name in self.numbers], axis=-1).view(np.uint8)
        codes = self._below_each_other(fields["codes"].reshape(rows, spans, -1))
        return np.ascontiguousarray(np.concatenate([numbers, codes], axis=-1).reshape(rows, -1))

    def _side_by_side(self, codes: Bytes) -> Bytes:
        """Bytes of code i and code i + 16 (rows, spans, n) as codes one after another."""
        if self.bits == 8:
            return codes
        if self.bits == 5:
            upper = np.unpackbits(codes[..., :4], axis=-1, bitorder="little")
            lower = np.concatenate([codes[..., 4:] & np.uint8(15), codes[..., 4:] >> np.uint8(4)], axis=-1)
            whole = lower | (upper << np.uint8(4))
            return pack_bits(whole.reshape(-1, SPAN), 5).reshape(*codes.shape)
        even, odd = codes[..., ::2], codes[..., 1::2]
        first = (even & np.uint8(15)) | (odd << np.uint8(4))
        last = (even >> np.uint8(4)) | (odd & np.uint8(240))
        return np.concatenate([first, last], axis=-1) ^ np.uint8(17 * self.turned)

    def _below_each_other(self, codes: Bytes) -> Bytes:
        """The same back."""
        if self.bits == 8:
            return codes
        if self.bits == 5:
            whole = unpack_bits(codes.reshape(-1, codes.shape[-1]), 5, SPAN).reshape(*codes.shape[:2], SPAN)
            upper = np.packbits(whole >> np.uint8(4), axis=-1, bitorder="little")
            lower = (whole[..., : SPAN // 2] & np.uint8(15)) | (whole[..., SPAN // 2 :] << np.uint8(4))
            return np.concatenate([upper, lower], axis=-1)
        first, last = codes[..., : SPAN // 4], codes[..., SPAN // 4 :]
        even = (first & np.uint8(15)) | (last << np.uint8(4))
        odd = (first >> np.uint8(4)) | (last & np.uint8(240))
        return np.stack([even, odd], axis=-1).reshape(codes.shape) ^ np.uint8(17 * self.turned)


_PAIRS = (
    Equivalent("Q4_0", "int4_g32_sym_f16", "float16", 4, turned=8),
    Equivalent("Q4_1", "uint4_g32_bias_f16", "float16", 4, numbers=("scale", "bias")),
    Equivalent("Q5_1", "uint5_g32_bias_f16", "float16", 5, numbers=("scale", "bias")),
    Equivalent("Q8_0", "int8_g32_sym_f16", "float16", 8),
    Equivalent("MXFP4", "mxfp4", "uint8", 4),
)
BY_ROWS: Mapping[str, Equivalent] = MappingProxyType({pair.rows: pair for pair in _PAIRS})
"""By the GGUF type."""
BY_FIELDS: Mapping[str, Equivalent] = MappingProxyType({pair.fields: pair for pair in _PAIRS})
"""By the member of a family."""
