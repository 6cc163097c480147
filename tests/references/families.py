"""What the fields of families mean, number by number in float64, written from docs/design/0005-families.md alone.

Nothing of fewbits is imported. A row of codes is read as one long binary number, scales one at a time.
"""

from __future__ import annotations

import struct
from statistics import NormalDist
from typing import Any

import numpy as np

# bitsandbytes' table, from QLoRA's appendix E.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
FP4 = [sign * m for sign in (1, -1) for m in (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)]


def single(x: float) -> float:
    """`x` rounded to float32."""
    rounded: float = struct.unpack("<f", struct.pack("<f", x))[0]
    return rounded


def normal_float(bits: int) -> list[float]:
    """NF4's construction: quantiles of the normal distribution, one more above 0 than below, 0, and 1 at the end.

    The outermost quantile lies halfway between those that 2^bits and 2^bits - 1 equal parts would give.
    """
    parts = 2**bits
    outermost = ((1 - 1 / (2 * parts)) + (1 - 1 / (2 * (parts - 1)))) / 2

    def side(count: int) -> list[float]:
        steps = [outermost + (0.5 - outermost) * k / count for k in range(count)]
        return [NormalDist().inv_cdf(p) for p in steps]

    numbers = sorted([*(-x for x in side(parts // 2 - 1)), 0.0, *side(parts // 2)])
    return [x / numbers[-1] for x in numbers]


def dynamic_map() -> list[float]:
    """Seven decades, each in twice as many steps as the one below, both signs, with 0 and 1."""
    numbers = [0.0, 1.0]
    for decade in range(7):
        count = 2**decade
        for k in range(count):
            middle = 0.1 + 0.9 * (k + 0.5) / count
            numbers += [10.0 ** (decade - 6) * middle, -(10.0 ** (decade - 6)) * middle]
    return sorted(numbers)


def bits_of(row: bytes, first: int, width: int) -> int:
    return int.from_bytes(row, "little") >> first & ((1 << width) - 1)


def number(field: np.ndarray, at: tuple[int, ...]) -> float:
    """One number of a field; 16-bit whole numbers are the upper halves of float32."""
    if field.dtype == np.uint16:
        upper: float = struct.unpack("<f", struct.pack("<I", int(field[at]) << 16))[0]
        return upper
    return float(field[at])


def scale_at(fields: dict[str, Any], line: int, group: int) -> float:
    """A stored scale, or a quantized one: the table's number times that of its 256 scales, plus the offset."""
    if "nested" not in fields:
        return number(fields["scale"], (line, group))
    count = fields["scale"].shape[1]
    code = int(fields["scale"][line, group])
    nested = float(fields["nested"][(line * count + group) // 256])
    return single(single(single(dynamic_map()[code]) * nested) + float(fields["offset"][0]))


def steps_of(name: str, fields: dict[str, Any], row: int, col: int, group: int) -> float:
    """What the code says, in units of the scale."""
    codes = fields["codes"][row].tobytes()
    kind = name.split("_", maxsplit=1)[0]
    if kind == "ternary":
        return codes[col // 5] // 3 ** (col % 5) % 3 - 1
    if kind in ("nf4", "nf3", "fp4"):
        table = {"nf4": NF4, "nf3": [single(x) for x in normal_float(3)], "fp4": [single(x) for x in FP4]}[kind]
        width = 3 if kind == "nf3" else 4
        return table[bits_of(codes, width * col, width)]
    width = int(kind[-1])
    if name == "int8_row_absmax":
        code = bits_of(codes, 8 * col, 8)
        return code - 256 * (code >= 128)
    code = bits_of(codes, width * col, width)
    if kind.startswith("learned"):
        return float(fields["table"][code])
    if "_bias" in name or "_floatzero" in name:
        return code
    half = 2 ** (width - 1)
    if width == 1 and "_sym" in name:
        return 1 if bool(code) != kind.startswith("int") else -1
    if kind.startswith("int"):
        code -= 2 * half * (code >= half)  # two's complement
    if "_sym" in name:
        return code - (half if kind.startswith("uint") else 0)
    zero = bits_of(fields["zero"][row if len(fields["zero"]) > 1 else 0].tobytes(), width * group, width)
    if kind.startswith("int"):
        zero -= 2 * half * (zero >= half)
    return code - zero


def decode(name: str, fields: dict[str, Any], shape: tuple[int, int], span: int) -> np.ndarray:
    """The numbers (rows, cols), each product, sum and difference rounded once to float32."""
    rows, cols = shape
    lines = len(fields["scale"])
    w = np.empty(shape, np.float32)
    for row in range(rows):
        for col in range(cols):
            group = col // span if span else 0
            scale = scale_at(fields, row if lines > 1 or rows == 1 else 0, group)
            steps = steps_of(name, fields, row, col, group)
            if "_floatzero" in name:
                steps = single(steps - number(fields["zero"], (row, group)))
            w[row, col] = single(scale * steps)
            if "_bias" in name:
                w[row, col] = single(float(w[row, col]) + number(fields["bias"], (row, group)))
            if name == "int8_row_absmax":
                w[row, col] = single(float(w[row, col]) * single(1 / 127))
    return w
