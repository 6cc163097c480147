"""Bits cut out of a span as out of one long binary number."""

from __future__ import annotations

import struct


def half(data: bytes, at: int) -> float:
    """The binary16 number at byte `at`."""
    number: float = struct.unpack_from("<e", data, at)[0]
    return number


def field(data: bytes, first_bit: int, width: int) -> int:
    """`width` bits of `data`, which counts its bits from the lowest one of byte 0."""
    return int.from_bytes(data, "little") >> first_bit & ((1 << width) - 1)
