"""The K-quants of two and three bits, Q2_K and Q3_K: pairs of bits of four columns share a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, Params
from fewbits.formats.exact import by_spread
from fewbits.formats.kquant import SPAN, Affine
from fewbits.formats.kquant_bits import pack_pairs, pack_sixteen_sixths, unpack_pairs, unpack_sixteen_sixths
from fewbits.formats.kquant_symmetric import SymmetricK
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

_PAIRS = "In each half of the span, columns e, e + 32, e + 64, e + 96 share byte e of the pairs"


@dataclass(frozen=True)
class AffinePairs(Affine):
    """Two-bit codes under a four-bit scale and a four-bit minimum per 16 columns."""

    length: int = 16
    scale_bits: int = 4
    even: float = 0.125
    around: int = 1

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        rows = len(codes)
        halves = np.stack([params[n].half().cpu().numpy() for n in ("d", "dmin")], axis=-1).view(np.uint8)
        scale, low = (params[n].cpu().numpy().astype(np.uint8).reshape(rows, -1, 16) for n in ("scale", "min"))
        pairs = pack_pairs(codes.reshape(rows, -1, SPAN).cpu().numpy())
        return np.concatenate([scale | low << 4, pairs, halves], axis=-1).reshape(rows, -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        halves = np.ascontiguousarray(span[..., 80:]).view(np.float16).astype(np.float32)
        small = span[..., :16]
        arrays = {
            **{"d": halves[..., 0], "dmin": halves[..., 1]},
            **{"scale": (small & 15).astype(np.float32), "min": (small >> 4).astype(np.float32)},
        }
        params = Params({n: torch.from_numpy(np.ascontiguousarray(a)).reshape(rows, -1) for n, a in arrays.items()})
        return torch.from_numpy(unpack_pairs(span[..., 16:80]).reshape(rows, cols)), params


@dataclass(frozen=True)
class SymmetricPairs(SymmetricK):
    """Three-bit codes under a signed six-bit scale per 16 columns."""

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(2 * the span's mean square + w^2)."""
        return by_spread(w, importance, SPAN)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        rows = len(codes)
        q = codes.reshape(rows, -1, 8, 32).cpu().numpy()
        third = np.packbits(np.moveaxis(q >> 2, 2, -1), axis=-1, bitorder="little")[..., 0]
        scale = (params["scale"].cpu().numpy() + self.scale_top).astype(np.uint8).reshape(rows, -1, 16)
        d = params["d"].half().cpu().numpy()[..., None].view(np.uint8)
        parts = [third, pack_pairs(q.reshape(*q.shape[:2], SPAN)), pack_sixteen_sixths(scale), d]
        return np.concatenate(parts, axis=-1).reshape(rows, -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        third = np.moveaxis(np.unpackbits(span[..., :32, None], axis=-1, bitorder="little"), -1, 2)
        q = unpack_pairs(span[..., 32:96]).reshape(third.shape) | third << 2
        scale = unpack_sixteen_sixths(span[..., 96:108]).astype(np.float32).reshape(rows, -1) - self.scale_top
        d = np.ascontiguousarray(span[..., 108:]).view(np.float16).astype(np.float32)[..., 0]
        params = Params({"d": torch.from_numpy(d), "scale": torch.from_numpy(scale)})
        return torch.from_numpy(q.reshape(rows, cols)), params


Q2_K = AffinePairs(
    "Q2_K",
    2,
    (2.25, 2.625, 3.0, 3.375, 3.75),
    0.6,
    "16 bytes: per group a scale in the low half and a minimum in the high half; 64 bytes: pairs of bits; d, dmin: "
    f"binary16. {_PAIRS}",
    "GGUF specification, quantization type Q2_K",
    weighted_levels=(2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.5),
)
Q3_K = SymmetricPairs(
    name="Q3_K",
    levels=(3.0625, 3.4375, 3.75, 4.125, 4.4375),
    error_bound=0.5,
    layout=(
        "32 bytes: bit p of byte e is the third bit of column 32p + e; 64 bytes: pairs of lower bits; 12 bytes: 16 "
        f"six-bit scales, shifted by 32; d: binary16. {_PAIRS}"
    ),
    source="GGUF specification, quantization type Q3_K",
    equation="w = (d * scale[g]) * (code - 4)",
    span_bytes=110,
    top=4,
    scale_top=32,
    weighted_levels=(*(3.0 + 0.125 * i for i in range(15)), 5.0, 5.5, 6.25, 2.75, 2.5),
    scale_levels=tuple(26.0 + 0.5 * i for i in range(16)),
)
