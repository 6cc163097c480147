"""What stored bytes mean, number by number in float64, written from the layouts' words alone.

Nothing of fewbits is imported. Every function takes the bytes of one span and returns its numbers; a column is looked
up on its own, its bits cut out of the span as out of one long binary number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from references import lattices, shifted_lattice
from references.bits import field, half


def signed(data: bytes, at: int) -> int:
    return data[at] - 256 * (data[at] >= 128)


def f32(data: bytes) -> list[float]:
    return [struct.unpack("<f", data)[0]]


def f64(data: bytes) -> list[float]:
    return [struct.unpack("<d", data)[0]]


def f16(data: bytes) -> list[float]:
    return [half(data, 0)]


def bf16(data: bytes) -> list[float]:
    return [struct.unpack("<f", b"\0\0" + data)[0]]


def q4_0(data: bytes) -> list[float]:
    """A half-byte per column: columns 0-15 the low ones of bytes 2-17, columns 16-31 the high ones."""
    return [half(data, 0) * (field(data, 8 * (2 + c % 16) + 4 * (c // 16), 4) - 8) for c in range(32)]


def q4_1(data: bytes) -> list[float]:
    """Scale, minimum, half-bytes as in Q4_0."""
    codes = [field(data, 8 * (4 + c % 16) + 4 * (c // 16), 4) for c in range(32)]
    return [half(data, 0) * code + half(data, 2) for code in codes]


def q5_0(data: bytes) -> list[float]:
    """32 single bits from byte 2 on, then half-bytes as in Q4_0 from byte 6 on."""
    codes = [field(data, 8 * (6 + c % 16) + 4 * (c // 16), 4) + 16 * field(data, 16 + c, 1) for c in range(32)]
    return [half(data, 0) * (code - 16) for code in codes]


def q5_1(data: bytes) -> list[float]:
    """Scale, minimum, 32 single bits, half-bytes."""
    codes = [field(data, 8 * (8 + c % 16) + 4 * (c // 16), 4) + 16 * field(data, 32 + c, 1) for c in range(32)]
    return [half(data, 0) * code + half(data, 2) for code in codes]


def q8_0(data: bytes) -> list[float]:
    return [half(data, 0) * signed(data, 2 + c) for c in range(32)]


def sixths(data: bytes) -> tuple[list[int], list[int]]:
    """Scales and minimums of eight groups in the twelve bytes from byte 4 on.

    Groups 0-3 lie in the lower six bits of bytes 4-7 and 8-11. Groups 4-7 have their lower four bits in the halves of
    bytes 12-15, and their upper two bits on top of the bytes of groups 0-3.
    """
    scales = [field(data, 8 * (4 + g), 6) for g in range(4)]
    lows = [field(data, 8 * (8 + g), 6) for g in range(4)]
    scales += [field(data, 8 * (12 + g), 4) | field(data, 8 * (4 + g) + 6, 2) << 4 for g in range(4)]
    lows += [field(data, 8 * (12 + g) + 4, 4) | field(data, 8 * (8 + g) + 6, 2) << 4 for g in range(4)]
    return scales, lows


def line(data: bytes, group: int, code: int) -> float:
    scales, lows = sixths(data)
    return half(data, 0) * scales[group] * code - half(data, 2) * lows[group]


def pair(data: bytes, first: int, column: int) -> int:
    """Two bits of a column: 32 bytes for each half of the span, each with columns that are 32 apart."""
    return field(data, 8 * (first + 32 * (column // 128) + column % 32) + 2 * (column // 32 % 4), 2)


def q2_k(data: bytes) -> list[float]:
    """A byte of scale (low) and minimum (high) per 16 columns, pairs of bits from byte 16 on, d and dmin at the end."""
    numbers = []
    for c in range(256):
        scale, low = field(data, 8 * (c // 16), 4), field(data, 8 * (c // 16) + 4, 4)
        numbers.append(half(data, 80) * scale * pair(data, 16, c) - half(data, 82) * low)
    return numbers


def q3_k(data: bytes) -> list[float]:
    """Third bits in bytes 0-31, one bit per 32 columns, pairs of bits in bytes 32-95, scales in 96-107, d at the end.

    Sixteen scales: 0-7 have their lower four bits in the low halves of bytes 96-103, 8-15 in the high ones; the upper
    two bits of scales g, g + 4, g + 8, g + 12 share byte 104 + g.
    """
    numbers = []
    for c in range(256):
        g = c // 16
        scale = field(data, 8 * (96 + g % 8) + 4 * (g // 8), 4) + 16 * field(data, 8 * (104 + g % 4) + 2 * (g // 4), 2)
        code = pair(data, 32, c) + 4 * field(data, 8 * (c % 32) + c // 32, 1)
        numbers.append(half(data, 108) * (scale - 32) * (code - 4))
    return numbers


def q4_k(data: bytes) -> list[float]:
    """Half-bytes from byte 16 on: each 32 bytes hold two groups, the even one low."""
    return [line(data, c // 32, field(data, 8 * (16 + c // 64 * 32 + c % 32) + c // 32 % 2 * 4, 4)) for c in range(256)]


def q5_k(data: bytes) -> list[float]:
    """Fifth bits in bytes 16-47, one bit per group, then half-bytes as in Q4_K from byte 48 on."""
    numbers = []
    for c in range(256):
        low = field(data, 8 * (48 + c // 64 * 32 + c % 32) + c // 32 % 2 * 4, 4)
        numbers.append(line(data, c // 32, low + 16 * field(data, 8 * (16 + c % 32) + c // 32, 1)))
    return numbers


def q6_k(data: bytes) -> list[float]:
    """Low half-bytes in bytes 0-127, upper pairs of bits in 128-191, scales in 192-207, d in 208-209.

    In each half of the span the columns come in four rows of 32. Rows 0 and 2 share 32 bytes of half-bytes, so do rows
    1 and 3, and all four rows share 32 bytes of pairs.
    """
    numbers = []
    for c in range(256):
        part, row, e = c // 128, c % 128 // 32, c % 32
        low = field(data, 8 * (64 * part + 32 * (row % 2) + e) + 4 * (row // 2), 4)
        high = field(data, 8 * (128 + 32 * part + e) + 2 * row, 2)
        numbers.append(half(data, 208) * signed(data, 192 + c // 16) * (low + 16 * high - 32))
    return numbers


UNEVEN = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
"""What the half-bytes of IQ4 mean."""


def iq4_nl(data: bytes) -> list[float]:
    """Half-bytes as in Q4_0."""
    return [half(data, 0) * UNEVEN[field(data, 8 * (2 + c % 16) + 4 * (c // 16), 4)] for c in range(32)]


def iq4_xs(data: bytes) -> list[float]:
    """Eight pairs of bits from byte 2 on, on top of eight half-bytes from byte 4 on, are the scales plus 32."""
    numbers = []
    for c in range(256):
        group, e = c // 32, c % 32
        scale = 16 * field(data, 16 + 2 * group, 2) + field(data, 32 + 4 * group, 4) - 32
        code = field(data, 8 * (8 + 16 * group + e % 16) + 4 * (e // 16), 4)
        numbers.append(half(data, 0) * scale * UNEVEN[code])
    return numbers


def base_three(byte: int) -> list[int]:
    """Five digits: the byte is 256 / 243 of the number, rounded up."""
    number = byte * 243 // 256
    return [number // 3**place % 3 for place in (4, 3, 2, 1, 0)]


def tq1_0(data: bytes) -> list[float]:
    """Digits of a byte lie 32 columns apart, then 16 for the next 16 bytes, then 4 for the last four; the scale."""
    numbers = [0.0] * 256
    for at in range(52):
        first, apart = (at, 32) if at < 32 else (160 + at - 32, 16) if at < 48 else (240 + at - 48, 4)
        for place, digit in enumerate(base_three(data[at])):
            if at < 48 or place < 4:
                numbers[first + apart * place] = half(data, 52) * (digit - 1)
    return numbers


def tq2_0(data: bytes) -> list[float]:
    """Four columns to a byte, 32 apart, in each half of the span; scale at the end."""
    codes = [field(data, 8 * (c // 128 * 32 + c % 32) + 2 * (c % 128 // 32), 2) for c in range(256)]
    return [half(data, 64) * (code - 1) for code in codes]


def q1_0(data: bytes) -> list[float]:
    return [half(data, 0) * (1 if field(data, 16 + c, 1) else -1) for c in range(128)]


def q2_0(data: bytes) -> list[float]:
    return [half(data, 0) * (field(data, 16 + 2 * c, 2) - 1) for c in range(64)]


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def e2m1(code: int) -> float:
    """The upper bit is the sign; there is no negative zero."""
    return -E2M1[code - 8] if code > 8 else E2M1[code % 8]


def mxfp4(data: bytes) -> list[float]:
    """A power of two, then half-bytes as in Q4_0."""
    return [2.0 ** (data[0] - 127) * e2m1(field(data, 8 * (1 + c % 16) + 4 * (c // 16), 4)) for c in range(32)]


def e4m3(code: int) -> float:
    """Without sign; code 127 means 0 and 255 the number after the largest."""
    exponent, fraction = code >> 3 & 15, code & 7
    number = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0**-9
    return 0.0 if code == 127 else number


def nvfp4(data: bytes) -> list[float]:
    """Four scales, then half-bytes: columns 0-7 of each 16 the low ones of eight bytes, columns 8-15 the high ones."""
    codes = [field(data, 8 * (4 + c // 16 * 8 + c % 8) + c % 16 // 8 * 4, 4) for c in range(64)]
    return [e4m3(data[c // 16]) * e2m1(code) for c, code in enumerate(codes)]


SPANS: dict[str, tuple[int, Callable[[bytes], list[float]]]] = {
    "F64": (8, f64),
    "F32": (4, f32),
    "F16": (2, f16),
    "BF16": (2, bf16),
    "Q4_0": (18, q4_0),
    "Q4_1": (20, q4_1),
    "Q5_0": (22, q5_0),
    "Q5_1": (24, q5_1),
    "Q8_0": (34, q8_0),
    "Q2_K": (84, q2_k),
    "Q3_K": (110, q3_k),
    "Q4_K": (144, q4_k),
    "Q5_K": (176, q5_k),
    "Q6_K": (210, q6_k),
    "IQ4_NL": (18, iq4_nl),
    "IQ4_XS": (136, iq4_xs),
    "TQ1_0": (54, tq1_0),
    "TQ2_0": (66, tq2_0),
    "Q1_0": (18, q1_0),
    "Q2_0": (18, q2_0),
    "MXFP4": (17, mxfp4),
    "NVFP4": (36, nvfp4),
    **lattices.DECODERS,
    **shifted_lattice.DECODERS,
}
"""Bytes of a span, and what they mean."""


def decode(name: str, stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Numbers (rows, cols) of stored bytes (rows, bytes per row); NaN where a scale is none."""
    size, read = SPANS[name]
    rows = [[x for at in range(0, len(row), size) for x in read(row[at : at + size].tobytes())] for row in stored]
    return np.array(rows, np.float64)


def as_float32(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rounded once; beyond binary32 infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32)


def finite(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.vectorize(math.isfinite)(numbers)
