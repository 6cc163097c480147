"""How K-quants pack small numbers: pairs of bits of four columns in a byte, six-bit scales across bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Bytes
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def pack_pairs(pairs: Bytes) -> Bytes:
    """Two-bit numbers (..., 256) to (..., 64): in each half of a span, columns e, e + 32, e + 64, e + 96 share byte e.

    >>> pack_pairs(np.arange(256, dtype=np.uint8) // 32 % 4)[[0, 63]].tolist()
    [228, 228]
    """
    rows = (pairs & 3).reshape(*pairs.shape[:-1], 2, 4, 32) << _SHIFTS
    packed: Bytes = np.bitwise_or.reduce(rows, axis=-2).reshape(*pairs.shape[:-1], 64)
    return packed


def unpack_pairs(packed: Bytes) -> Bytes:
    """The two-bit numbers (..., 256) of (..., 64)."""
    rows = packed.reshape(*packed.shape[:-1], 2, 1, 32) >> _SHIFTS
    pairs: Bytes = np.asarray(rows & 3, np.uint8)
    return pairs.reshape(*packed.shape[:-1], 256)


def pack_sixths(scale: torch.Tensor, low: torch.Tensor, spans: int) -> Bytes:
    """Twelve bytes of six-bit numbers: the upper two bits of groups 4 .. 7 ride on the bytes of groups 0 .. 3."""
    s = scale.cpu().numpy().astype(np.uint8).reshape(len(scale), spans, 8)
    m = low.cpu().numpy().astype(np.uint8).reshape(s.shape)
    first, second = s[..., :4] | (s[..., 4:] >> 4) << 6, m[..., :4] | (m[..., 4:] >> 4) << 6
    packed: Bytes = np.concatenate([first, second, (s[..., 4:] & 15) | (m[..., 4:] & 15) << 4], axis=-1)
    return packed


def unpack_sixths(packed: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Scales and minimums, each (..., 8), of twelve bytes."""
    first, second, both = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scale = np.concatenate([first & 63, (both & 15) | (first >> 6) << 4], axis=-1)
    low = np.concatenate([second & 63, both >> 4 | (second >> 6) << 4], axis=-1)
    return scale.astype(np.float32), low.astype(np.float32)


def pack_sixteen_sixths(numbers: Bytes) -> Bytes:
    """Sixteen six-bit numbers (..., 16) to (..., 12).

    Lower four bits of numbers g and g + 8 share byte g; upper two bits of g, g + 4, g + 8, g + 12 share byte 8 + g.
    """
    low = (numbers[..., :8] & 15) | (numbers[..., 8:] & 15) << 4
    high = (numbers >> 4).reshape(*numbers.shape[:-1], 4, 4) << _SHIFTS
    packed: Bytes = np.concatenate([low, np.bitwise_or.reduce(high, axis=-2)], axis=-1)
    return packed


def unpack_sixteen_sixths(packed: Bytes) -> Bytes:
    """The sixteen six-bit numbers (..., 16) of (..., 12)."""
    low = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], axis=-1)
    high = (packed[..., None, 8:] >> _SHIFTS) & 3
    numbers: Bytes = low | high.reshape(low.shape) << 4
    return numbers
