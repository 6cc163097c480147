"""Static quantization in Python's whole numbers: every sum one by one, every rounding by a shift. Slow and obvious."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import ceil, floor
from typing import Any

Numbers = Any
"""Nested lists of whole numbers."""


def multiplier(real: float) -> tuple[int, int]:
    """m of 22 bits and a shift, so that m / 2^shift is nearest to `real`."""
    exact, shift = Fraction(real), 0
    while exact * 2**shift < 2**21 and shift < 62:
        shift += 1
    while exact * 2**shift >= 2**22 and shift > 1:
        shift -= 1
    scaled = exact * 2**shift
    low, high = floor(scaled), ceil(scaled)
    nearest = low if scaled - low < high - scaled or (scaled - low == high - scaled and low % 2 == 0) else high
    return min(nearest, 2**22), max(shift, 1)


def rescaled(total: int, m: int, shift: int) -> int:
    """total * m / 2^shift, rounded to the nearest whole number, halves upwards."""
    return (total * m + (1 << (shift - 1))) >> shift


def code(total: int, m: int, shift: int, zero: int, bounds: Sequence[int]) -> int:
    """A sum as a code."""
    return min(max(rescaled(total, m, shift) + zero, bounds[0]), bounds[1])


def linear(x: Numbers, zero: int, weight: Numbers) -> Numbers:
    """Sums (samples, rows) of x (samples, cols) and weight (rows, cols)."""
    return [[sum((a - zero) * b for a, b in zip(sample, row, strict=True)) for row in weight] for sample in x]


def convolution(
    x: Numbers,
    zero: int,
    weight: Numbers,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Numbers:
    """Sums (samples, rows, height, width): x (samples, channels, ...), weight (rows, channels / groups, ...)."""
    height, width = len(x[0][0]), len(x[0][0][0])
    kernel = len(weight[0][0]), len(weight[0][0][0])
    sizes = [
        (size + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d, size in enumerate((height, width))
    ]
    per_group = len(weight) // groups

    def at(sample: Numbers, row: int, i: int, j: int) -> int:
        total, filters = 0, weight[row]
        for c, a, b in product(range(len(filters)), range(kernel[0]), range(kernel[1])):
            y = i * stride[0] - padding[0] + a * dilation[0]
            z = j * stride[1] - padding[1] + b * dilation[1]
            if 0 <= y < height and 0 <= z < width:
                total += (sample[row // per_group * len(filters) + c][y][z] - zero) * filters[c][a][b]
        return total

    return [
        [[[at(sample, row, i, j) for j in range(sizes[1])] for i in range(sizes[0])] for row in range(len(weight))]
        for sample in x
    ]
