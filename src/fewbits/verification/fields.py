"""The stranger's reading of families of formats: numbers from named fields, by the format's name and nothing else.

Written from docs/design/0005-families.md and the formats' specifications, in numpy, one table of numbers per kind of
code; it shares nothing with the formats. What native/verify is to GGUF's types this is to fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from fewbits.errors import VerificationError
from fewbits.formats import Fields

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int16]
_SCOPE = r"_(?P<scope>tensor|row|g\d+|tile\d+)"
_SCALE = r"(?:_(?P<scale>f16|bf16|dq))?"
_NF4 = "-1 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334 \
-0.09105003625154495 0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224 \
0.44070982933044434 0.5626170039176941 0.7229568362236023 1"
_NF3 = "-1 -0.5350227355957031 -0.24693143367767334 0 0.1833374798297882 0.38199394941329956 0.6229857206344604 1"


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

    def scales(self, scope: str) -> Floats:
        """The scales of these rows, which may be quantized themselves: codes of a map, 256 under one number, moved."""
        stored = self.numbers("scale")
        if "nested" in self.fields:
            nested = np.repeat(self.fields["nested"], 256)[: stored.size].reshape(stored.shape)
            stored = dynamic_map()[self.fields["scale"]] * nested + self.fields["offset"]
        return self.spread(stored, scope).astype(np.float32)

    def spread(self, lines: npt.NDArray[np.generic], scope: str) -> npt.NDArray[np.generic]:
        """Parameters (lines, n) as they apply to each number of these rows: (rows, cols), or broadcast to that."""
        if scope == "tensor":
            return lines.reshape(1, 1)
        if scope == "row":
            return lines[self.start : self.stop]
        width = int(scope.lstrip("tileg"))
        row = np.arange(self.start, self.stop) // (width if scope.startswith("tile") else 1)
        return lines[row][:, np.arange(self.cols) // width]


@cache
def dynamic_map() -> Floats:
    """Bitsandbytes' map for 8-bit scales: in each of seven decades, twice as many numbers as in the one below."""
    import torch  # its linspace is where the last bits of these numbers come from

    numbers = [0.0, 1.0]
    for decade in range(7):
        ends = torch.linspace(0.1, 1.0, 2**decade + 1)
        numbers += (10.0 ** (decade - 6) * ((ends[1:] + ends[:-1]) / 2)).tolist()
    return np.array(sorted([*numbers, *(-n for n in numbers[2:])]), np.float32)


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
    scale = slab.scales(scope)
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


def _absmax(_: re.Match[str], slab: Slab) -> Floats:
    codes = ((slab.codes(8) ^ 128) - 128).astype(np.float32)
    return slab.scales("row") * codes * np.float32(1 / 127)


def _offset(found: re.Match[str], slab: Slab) -> Floats:
    codes, scale = slab.codes(int(found["bits"])).astype(np.float32), slab.scales(found["scope"])
    own = slab.spread(slab.numbers("bias" if found["offset"] == "bias" else "zero"), found["scope"]).astype(np.float32)
    return scale * codes + own if found["offset"] == "bias" else scale * (codes - own)


def _scaled_float(found: re.Match[str], slab: Slab) -> Floats:
    bits, numbers = _element(found["element"])
    return slab.scales(found["scope"]) * numbers[slab.codes(bits)]


def _bitsandbytes_fp4() -> Floats:
    """Sign, two bits of exponent that count downwards, one of fraction; the smallest number is 1/192."""
    sizes = [0.0, 1 / 16, *((8 >> e) * (1 + m / 2) for e in range(3) for m in range(2))]
    return (np.array([*sizes, 0.0, *(-n for n in sizes[1:])]) / 12).astype(np.float32)


def _table(text: str) -> Floats:
    return np.array([float(number) for number in text.split()], np.float32)


def codebook(kind: str) -> Floats:
    """The numbers of the fixed table called `kind`: nf4, nf3 or fp4_bnb."""
    return {"nf4": _table(_NF4), "nf3": _table(_NF3), "fp4_bnb": _bitsandbytes_fp4()}[kind]


def _codebook(found: re.Match[str], slab: Slab) -> Floats:
    kind = found["kind"]
    if kind.startswith("learned"):
        bits, table = int(kind[-1]), slab.numbers("table")
    else:
        bits, table = 3 if kind == "nf3" else 4, codebook(kind)
    numbers: Floats = slab.scales(found["scope"]) * table[slab.codes(bits)]
    return numbers


def _ternary(found: re.Match[str], slab: Slab) -> Floats:
    packed = slab.fields["codes"][slab.start : slab.stop].astype(np.int16)
    codes = np.empty((len(packed), 5 * packed.shape[1]), np.int16)
    for place in range(5):
        codes[:, place::5] = packed // 3**place % 3
    return slab.scales(found["scope"]) * (codes[:, : slab.cols] - 1).astype(np.float32)


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


def _nvfp4(found: re.Match[str], slab: Slab) -> Floats:
    group = small_float(4, 3)[slab.fields["scale"]]
    if found["divided"]:
        group = group / slab.numbers("divisor").reshape(1, 1)
    else:
        group = slab.numbers("tensor_scale").reshape(1, 1) * group
    return slab.spread(group, "g16").astype(np.float32) * small_float(2, 1)[slab.codes(4)]


_READINGS: tuple[tuple[str, Callable[[re.Match[str], Slab], Floats]], ...] = (
    (rf"(?P<unsigned>u?)int(?P<bits>\d){_SCOPE}_(?P<symmetry>a?sym)(?:_restricted)?{_SCALE}", _integer),
    (r"int8_row_absmax", _absmax),
    (rf"uint(?P<bits>\d){_SCOPE}_(?P<offset>bias|floatzero){_SCALE}", _offset),
    (rf"(?P<kind>nf4|nf3|fp4_bnb|learned\d){_SCOPE}{_SCALE}", _codebook),
    (rf"ternary{_SCOPE}{_SCALE}", _ternary),
    (rf"fp\d_(?P<element>e\dm\d){_SCOPE}{_SCALE}", _scaled_float),
    (r"mxint8|mxfp4|mxfp\d_(?P<element>e\dm\d)", _microscaled),
    (r"nvfp4(?P<divided>_divided)?", _nvfp4),
)


def read_numbers(format_name: str, slab: Slab) -> Floats:
    """The numbers (rows, cols) of `slab` in the format called `format_name`; raises VerificationError when unknown."""
    for pattern, read in _READINGS:
        found = re.fullmatch(pattern, format_name)
        if found:
            return read(found, slab)
    raise VerificationError(f"verification has no reading of the format {format_name}; the file is not kept.")


_SIXTEEN_BITS = 2.0**-11 * 1.001
"""What rounding to binary16 changes of a number at most, relatively; a rotated one was worked out twice."""
_SMALLEST = 2.0**-25
"""The same absolutely: half of binary16's smallest step."""


def put_outliers(name: str, slab: Slab, found: Floats, wanted: Floats) -> None:
    """Put the columns that `slab` keeps in 16 bits over the numbers `found` (rows, cols), and look at them closely.

    Each is its own column of `wanted` rounded to 16 bits, however much the rest may make up for each other. Raises
    VerificationError, naming the matrix, where it is not, or where places are none.
    """
    if "outlier_index" not in slab.fields:
        return
    index = slab.fields["outlier_index"].astype(np.int64)
    if len(index) and not (index[0] >= 0 and index[-1] < slab.cols and bool((index[1:] > index[:-1]).all())):
        raise VerificationError(f"tensor {name} keeps columns that it does not have, or one twice; it is not kept.")
    values = slab.fields["outlier_values"][slab.start : slab.stop].astype(np.float32)
    meant = wanted[:, index]
    far = ~(np.abs(values - meant) <= _SIXTEEN_BITS * np.abs(meant) + _SMALLEST).all(0)
    if far.any():
        raise VerificationError(
            f"tensor {name} keeps column {index[far][0]} in 16 bits, which is not the source's; the file is not kept."
        )
    found[:, index] = values
