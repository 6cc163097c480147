"""Formats that are the same numbers under two names: a GGUF type, and a member of a family that lies in fields.

    Q4_0   int4_g32_sym_f16   d: binary16; 16 bytes, code i below code i + 16, counted from the lowest
    Q8_0   int8_g32_sym_f16   d: binary16; 32 bytes, two's complement
    MXFP4  mxfp4              e: a power of two; 16 bytes, code i below code i + 16

What is stored of the one is moved to the places of the other: no number changes, and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fewbits.formats import Fields
from fewbits.formats.base import Bytes

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

    def to_fields(self, data: Bytes) -> Fields:
        """Fields of stored bytes (rows, bytes per row)."""
        width = np.dtype(self.scale).itemsize
        spans = data.reshape(len(data), -1, width + SPAN * self.bits // 8)
        scale = np.ascontiguousarray(spans[..., :width]).view(self.scale)[..., 0]
        codes = spans[..., width:]
        if self.bits == 4:
            even, odd = codes[..., ::2], codes[..., 1::2]
            first = (even & np.uint8(15)) | (odd << np.uint8(4))
            last = (even >> np.uint8(4)) | (odd & np.uint8(240))
            codes = np.concatenate([first, last], axis=-1) ^ np.uint8(17 * self.turned)
        return {"codes": np.ascontiguousarray(codes).reshape(len(data), -1), "scale": scale}

    def to_rows(self, fields: Fields) -> Bytes:
        """Stored bytes (rows, bytes per row) of fields."""
        rows, spans = fields["scale"].shape
        scale = np.ascontiguousarray(fields["scale"])[..., None].view(np.uint8)
        codes = fields["codes"].reshape(rows, spans, -1)
        if self.bits == 4:  # bytes of neighbours become bytes of code i and code i + 16
            first, last = codes[..., : SPAN // 4], codes[..., SPAN // 4 :]
            even = (first & np.uint8(15)) | (last << np.uint8(4))
            odd = (first >> np.uint8(4)) | (last & np.uint8(240))
            codes = np.stack([even, odd], axis=-1).reshape(rows, spans, -1) ^ np.uint8(17 * self.turned)
        return np.ascontiguousarray(np.concatenate([scale, codes], axis=-1).reshape(rows, -1))


_PAIRS = (
    Equivalent("Q4_0", "int4_g32_sym_f16", "float16", 4, turned=8),
    Equivalent("Q8_0", "int8_g32_sym_f16", "float16", 8),
    Equivalent("MXFP4", "mxfp4", "uint8", 4),
)
BY_ROWS: Mapping[str, Equivalent] = MappingProxyType({pair.rows: pair for pair in _PAIRS})
"""By the GGUF type."""
BY_FIELDS: Mapping[str, Equivalent] = MappingProxyType({pair.fields: pair for pair in _PAIRS})
"""By the member of a family."""
