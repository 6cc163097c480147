"""The stranger's reading of families of formats: numbers from named fields, by the format's name and nothing else.

Written from docs/design/0005-families.md and the formats' specifications, in numpy, one table of numbers per kind of
code; it shares nothing with the formats. What native/verify is to GGUF's types this is to fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.errors import VerificationError
from fewbits.formats import Fields

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int16]
_SCOPE = r"_(?P<scope>tensor|row|g\d+|tile\d+)"
_SCALE = r"(?:_(?P<scale>f16|bf16))?"


def unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int) -> Codes:
    """The first `count` codes of each row: code c has the bits from c * bits on, the lowest bit of byte 0 first."""
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    codes = np.zeros((len(packed), count), np.int16)
    for bit in range(bits):
        codes |= stream[:, bit : count * bits : bits].astype(np.int16) << bit
    return codes


@dataclass(frozen=True)
class Slab:
    """Rows `start` to `stop` of a matrix of `cols` columns whose fields are `fields`."""

    fields: Fields
    start: int
    stop: int
    cols: int

    def codes(self, bits: int) -> Codes:
        """Codes (rows, cols) of `bits` bits each."""
        return unpacked(self.fields["codes"][self.start : self.stop], bits, self.cols)

    def numbers(self, field: str) -> Floats:
        """A field of floats, all lines; uint16 holds the upper halves of float32."""
        raw = self.fields[field]
        if raw.dtype == np.uint16:
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)

    def spread(self, lines: npt.NDArray[np.generic], scope: str) -> npt.NDArray[np.generic]:
        """Parameters (lines, n) as they apply to each number of these rows: (rows, cols), or broadcast to that."""
        if scope == "tensor":
            return lines.reshape(1, 1)
        if scope == "row":
            return lines[self.start : self.stop]
        width = int(scope.lstrip("tileg"))
        row = np.arange(self.start, self.stop) // (width if scope.startswith("tile") else 1)
        return lines[row][:, np.arange(self.cols) // width]


def small_float(exponent_bits: int, fraction_bits: int) -> Floats:
    """All numbers of a float with a sign bit, by code; E4M3's and E5M2's last exponents hold NaN and infinity."""
    code = np.arange(2 ** (1 + exponent_bits + fraction_bits))
    fraction = (code & 2**fraction_bits - 1) / 2**fraction_bits
    exponent = code >> fraction_bits & 2**exponent_bits - 1
    bias = 2 ** (exponent_bits - 1) - 1
    size = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if (exponent_bits, fraction_bits) == (4, 3):
        size = np.where(code & 127 == 127, np.nan, size)
    if (exponent_bits, fraction_bits) == (5, 2):
        size = np.where(exponent == 31, np.where(fraction == 0, np.inf, np.nan), size)
    sign = code >> (exponent_bits + fraction_bits)
    numbers: Floats = np.where(sign == 1, -size, size).astype(np.float32)
    return numbers


def _element(name: str) -> tuple[int, Floats]:
    """Bits of a code and its numbers, for "e4m3" and its like."""
    exponent_bits, fraction_bits = int(name[1]), int(name[3])
    return 1 + exponent_bits + fraction_bits, small_float(exponent_bits, fraction_bits)


def _integer(found: re.Match[str], slab: Slab) -> Floats:
    bits, scope = int(found["bits"]), found["scope"]
    half = 2 ** (bits - 1)
    codes = slab.codes(bits)
    scale = slab.spread(slab.numbers("scale"), scope).astype(np.float32)
    if found["unsigned"]:
        codes -= half  # as far from the middle as in two's complement
    else:
        codes = (codes ^ half) - half
    if found["symmetry"] == "sym":
        steps = 2 * codes + 1 if bits == 1 else codes
        return scale * steps.astype(np.float32)
    count = slab.fields["scale"].shape[1]
    zero = unpacked(slab.fields["zero"], bits, count)
    zero = zero - half if found["unsigned"] else (zero ^ half) - half
    return scale * (codes - slab.spread(zero, scope).astype(np.int16)).astype(np.float32)


def _scaled_float(found: re.Match[str], slab: Slab) -> Floats:
    bits, numbers = _element(found["element"])
    return slab.spread(slab.numbers("scale"), found["scope"]).astype(np.float32) * numbers[slab.codes(bits)]


def _powers_of_two(scale: npt.NDArray[np.uint8]) -> Floats:
    """E8M0: 2^(byte - 127), and NaN for 255."""
    return np.where(scale == 255, np.nan, np.ldexp(1.0, scale.astype(np.int64) - 127)).astype(np.float32)


def _microscaled(found: re.Match[str], slab: Slab) -> Floats:
    scale = slab.spread(_powers_of_two(slab.fields["scale"]), "g32").astype(np.float32)
    if found.string == "mxint8":  # two's complement, in 64ths
        codes = slab.codes(8)
        return scale * (((codes ^ 128) - 128) / 64).astype(np.float32)
    bits, numbers = _element(found["element"] or "e2m1")
    return scale * numbers[slab.codes(bits)]


def _nvfp4(_: re.Match[str], slab: Slab) -> Floats:
    group = slab.numbers("tensor_scale").reshape(1, 1) * small_float(4, 3)[slab.fields["scale"]]
    return slab.spread(group, "g16").astype(np.float32) * small_float(2, 1)[slab.codes(4)]


_READINGS: tuple[tuple[str, Callable[[re.Match[str], Slab], Floats]], ...] = (
    (rf"(?P<unsigned>u?)int(?P<bits>\d){_SCOPE}_(?P<symmetry>a?sym)(?:_restricted)?{_SCALE}", _integer),
    (rf"fp\d_(?P<element>e\dm\d){_SCOPE}{_SCALE}", _scaled_float),
    (r"mxint8|mxfp4|mxfp\d_(?P<element>e\dm\d)", _microscaled),
    (r"nvfp4", _nvfp4),
)


def read_numbers(format_name: str, slab: Slab) -> Floats:
    """The numbers (rows, cols) of `slab` in the format called `format_name`; raises VerificationError when unknown."""
    for pattern, read in _READINGS:
        found = re.fullmatch(pattern, format_name)
        if found:
            return read(found, slab)
    raise VerificationError(f"verification has no reading of the format {format_name}; the file is not kept.")
