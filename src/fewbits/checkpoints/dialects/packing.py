"""Codes in words of 32 bits, as GPU kernels want them: the same bits as the bytes of our fields, seen otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Bytes
from fewbits.formats.fields import pack_bits, packed_bytes, unpack_bits

Words = npt.NDArray[np.int32]


def word_count(codes: int, bits: int) -> int:
    """Words that `codes` codes of `bits` bits take, without holes.

    >>> word_count(128, 3)
    12
    """
    return -(-codes * bits // 32)


def to_words(packed: Bytes) -> Words:
    """Packed codes (rows, bytes) as little-endian words (rows, words), the last one filled up with zeros.

    >>> hex(to_words(np.array([[0x10, 0x32, 0x54, 0x76]], np.uint8))[0, 0])
    '0x76543210'
    """
    rows, width = packed.shape
    if width % 4:
        packed = np.concatenate([packed, np.zeros((rows, -width % 4), np.uint8)], axis=1)
    return np.ascontiguousarray(packed).view("<i4")


def from_words(words: npt.NDArray[Any], width: int) -> Bytes:
    """Packed codes (rows, width) of words (rows, words)."""
    return np.ascontiguousarray(np.ascontiguousarray(words).view(np.uint8)[:, :width])


def packed_down(codes: npt.NDArray[np.uint8], bits: int) -> Words:
    """Codes (rows, n) as words (n, words of rows): packed along rows, one line per column."""
    return to_words(pack_bits(np.ascontiguousarray(codes.T), bits))


def unpacked_down(words: npt.NDArray[Any], bits: int, rows: int) -> npt.NDArray[np.uint8]:
    """Codes (rows, n) of words (n, words of rows)."""
    return np.ascontiguousarray(unpack_bits(from_words(words, packed_bytes(rows, bits)), bits, rows).T)


def halves_swapped(packed: Bytes) -> Bytes:
    """Bytes with their upper four bits below: codes of which the first one is the upper half."""
    return (packed >> np.uint8(4)) | (packed << np.uint8(4))
