"""Small floats and the formats made of them, in float64 and written from the specifications' words alone.

OCP 8-bit Floating Point (OFP8) 1.0 for E4M3 and E5M2; OCP Microscaling Formats (MX) 1.0 for E3M2, E2M3, E2M1, INT8 and
E8M0; NVIDIA's NVFP4. Nothing of fewbits is imported. A number is looked up among all numbers of its type.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TYPES = {"E4M3": (4, 3, 7), "E5M2": (5, 2, 15), "E3M2": (3, 2, 3), "E2M3": (2, 3, 1), "E2M1": (2, 1, 1)}
"""Exponent bits, fraction bits, bias."""

LARGEST = {"E4M3": 448.0, "E5M2": 57344.0, "E3M2": 28.0, "E2M3": 7.5, "E2M1": 6.0, "INT8": 127 / 64}
LARGEST_POWER = {"E4M3": 8, "E5M2": 15, "E3M2": 4, "E2M3": 2, "E2M1": 2, "INT8": 0}
"""The exponent of the largest number: emax of the MX specification, table 1."""


def width(kind: str) -> int:
    return 8 if kind == "INT8" else 1 + sum(TYPES[kind][:2])


def number(kind: str, code: int) -> float:
    """The meaning of one code: its bits as text, sign first."""
    if kind == "INT8":
        return float(struct.unpack("b", bytes([code]))[0]) / 64
    exponent_bits, fraction_bits, bias = TYPES[kind]
    text = f"{code:0{width(kind)}b}"
    sign, e, f = -1.0 if text[0] == "1" else 1.0, text[1 : 1 + exponent_bits], text[1 + exponent_bits :]
    if kind == "E4M3" and e + f == "1111111":
        return math.nan
    if kind == "E5M2" and e == "11111":
        return sign * math.inf if f == "00" else math.nan
    share = int(f, 2) / 2**fraction_bits
    if "1" not in e:
        return sign * 2.0 ** (1 - bias) * share
    return float(sign * 2.0 ** (int(e, 2) - bias) * (1 + share))


@cache
def numbers(kind: str) -> Floats:
    """Of every code, in their order."""
    return np.array([number(kind, code) for code in range(2 ** width(kind))])


@cache
def _finite(kind: str) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Numbers that are ever chosen with their codes, ascending; zero is that of code 0."""
    chosen = {}
    for code, x in enumerate(numbers(kind)):
        if abs(x) <= LARGEST[kind] and x not in chosen:
            chosen[float(x)] = code
    order = sorted(chosen)
    return np.array(order), np.array([chosen[x] for x in order])


def nearest(kind: str, x: Floats) -> Floats:
    """Rounded to the nearest number, of two as near to that of the even code; saturating. No NaN."""
    values, codes = _finite(kind)
    above = np.clip(np.searchsorted(values, x), 1, len(values) - 1)
    low, high = values[above - 1], values[above]
    to_low, to_high = np.abs(x - low), np.abs(x - high)
    take_low = (to_low < to_high) | ((to_low == to_high) & (codes[above - 1] % 2 == 0))
    return np.where(take_low, low, high)


def power(code: int) -> float:
    """E8M0."""
    return math.nan if code == 255 else 2.0 ** (int(code) - 127)


def kind_of(name: str) -> str:
    """The element of a format, by the format's name."""
    for kind in TYPES:
        if kind.lower() in name:
            return kind
    return {"mxfp4": "E2M1", "nvfp4": "E2M1", "mxint8": "INT8"}[name.partition("_")[0]]


def codes_of(packed: npt.NDArray[np.uint8], bits: int, cols: int) -> list[list[int]]:
    """Codes of each row: its bytes as one long binary number, the first code at its lowest end."""
    rows = [int.from_bytes(row.tobytes(), "little") for row in packed]
    return [[row >> bits * c & (1 << bits) - 1 for c in range(cols)] for row in rows]


def decode(name: str, fields: Mapping[str, npt.NDArray[Any]], cols: int) -> Floats:
    """The numbers (rows, cols) of what is stored, every product rounded to binary32 as readers compute it."""
    kind = kind_of(name)
    values = np.array([[number(kind, code) for code in row] for row in codes_of(fields["codes"], width(kind), cols)])
    scale = _scales(name, fields)
    across, down = -(-cols // scale.shape[1]), -(-len(values) // scale.shape[0])
    if "_tile" in name:
        down = int(name.split("_tile")[1].partition("_")[0])
    spread = np.repeat(np.repeat(scale, down, 0), across, 1)[: len(values), :cols]
    with np.errstate(all="ignore"):
        return (values * spread).astype(np.float32).astype(np.float64)


def _scales(name: str, fields: Mapping[str, npt.NDArray[Any]]) -> Floats:
    stored = fields["scale"]
    if name.startswith("mx"):
        return np.vectorize(power)(stored)
    if name.startswith("nvfp4"):
        own = np.vectorize(lambda code: number("E4M3", code))(stored).astype(np.float32)
        if name == "nvfp4_divided":
            return (own / fields["divisor"].astype(np.float32)).astype(np.float64)
        return (fields["tensor_scale"].astype(np.float32) * own).astype(np.float64)
    if stored.dtype == np.uint16:  # bfloat16
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def textbook(name: str, w: Floats) -> Floats:
    """What comes back of w (rows, cols) under the rule that the format's authors state."""
    if name.startswith("mx"):
        return np.concatenate([_mx(kind_of(name), group) for group in w.reshape(-1, 32)]).reshape(w.shape)
    if name.startswith("nvfp4"):
        return _nvfp4(w)
    top, back = LARGEST[kind_of(name)], np.empty_like(w)
    for part in _scopes(name, w.shape):
        scale = max(np.abs(w[part]).max() / top, 2.0**-126)
        back[part] = scale * nearest(kind_of(name), w[part] / scale)
    return back


def _scopes(name: str, shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    rows, cols = shape
    word = name.split("_")[2]
    size = int("".join(c for c in word if c.isdigit()) or 0)
    down, across = {"tensor": (rows, cols), "row": (1, cols), "g": (1, size), "tile": (size, size)}[
        word.rstrip("0123456789")
    ]
    return [(slice(r, r + down), slice(c, c + across)) for r in range(0, rows, down) for c in range(0, cols, across)]


def _mx(kind: str, group: Floats) -> Floats:
    """MX 1.0, 6.3: the scale is the largest power of two not above the largest magnitude, over that of the element."""
    largest = float(np.abs(group).max())
    if largest == 0.0:
        return np.zeros_like(group)
    exponent = math.frexp(largest)[1] - 1 - LARGEST_POWER[kind]
    scale = 2.0 ** min(max(exponent, -127), 127)
    return scale * nearest(kind, group / scale)


def _nvfp4(w: Floats) -> Floats:
    """The scale of the tensor takes its largest to 448 * 6, a group's, rounded to E4M3, the group's to 6."""
    tensor = max(np.abs(w).max() / (448 * 6), 2.0**-120)
    scale = tensor * nearest("E4M3", np.abs(w.reshape(len(w), -1, 16)).max(-1, keepdims=True) / 6 / tensor)
    safe = np.where(scale > 0, scale, 1.0)
    back = scale * nearest("E2M1", w.reshape(len(w), -1, 16) / safe)
    return np.asarray(back.reshape(w.shape))
