"""Formats on lattices: what stored bytes mean, and a plain search, in float64; points from the gguf package.

A column is looked up on its own: which point its vector has, which number of the point it is, and its sign.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from gguf import quants

from references.bits import field, half

Floats = npt.NDArray[np.float64]


@cache
def points(name: str) -> Floats:
    """The points (count, columns) of a format."""
    source = getattr(quants, name)
    source.init_grid()
    table: Floats = source.grid.reshape(source.grid_shape).astype(np.float64)
    return table


def sign(data: bytes, first_bit: int, column: int) -> int:
    """-1 or 1 of one of eight columns with seven signs from `first_bit` on: the eighth makes their product positive."""
    signs = [1 - 2 * field(data, first_bit + c, 1) for c in range(7)]
    return [*signs, int(np.prod(signs))][column]


def iq2_xxs(data: bytes) -> list[float]:
    """Eight groups of eight bytes: four points, four times seven signs, four bits of scale."""
    numbers = []
    for c in range(256):
        start, v = 16 + 64 * (c // 32), c % 32 // 8
        step = half(data, 0) * (0.5 + field(data, start + 60, 4)) / 4
        number = points("IQ2_XXS")[field(data, start + 8 * v, 8), c % 8]
        numbers.append(step * number * sign(data, start + 32 + 7 * v, c % 8))
    return numbers


def iq2_xs(data: bytes) -> list[float]:
    """32 times a point of nine bits and seven signs, then sixteen half-bytes of scales."""
    numbers = []
    for c in range(256):
        start = 16 + 16 * (c // 8)
        step = half(data, 0) * (0.5 + field(data, 528 + 4 * (c // 16), 4)) / 4
        number = points("IQ2_XS")[field(data, start, 9), c % 8]
        numbers.append(step * number * sign(data, start + 9, c % 8))
    return numbers


def iq2_s(data: bytes) -> list[float]:
    """32 bytes of points, 32 bytes of signs, 32 pairs of bits on top of the points, sixteen half-bytes of scales."""
    numbers = []
    for c in range(256):
        v = c // 8
        step = half(data, 0) * (0.5 + field(data, 592 + 4 * (c // 16), 4)) / 4
        point = field(data, 16 + 8 * v, 8) + 256 * field(data, 528 + 2 * v, 2)
        numbers.append(step * points("IQ2_S")[point, c % 8] * (1 - 2 * field(data, 272 + c, 1)))
    return numbers


def iq3_xxs(data: bytes) -> list[float]:
    """64 bytes of points, then eight times four times seven signs and four bits of scale."""
    numbers = []
    for c in range(256):
        start = 528 + 32 * (c // 32)
        step = half(data, 0) * (0.5 + field(data, start + 28, 4)) / 2
        number = points("IQ3_XXS")[field(data, 16 + 8 * (c // 4), 8), c % 4]
        numbers.append(step * number * sign(data, start + 7 * (c % 32 // 8), c % 8))
    return numbers


def iq3_s(data: bytes) -> list[float]:
    """64 bytes of points, 64 single bits on top of them, 256 signs, eight half-bytes of scales."""
    numbers = []
    for c in range(256):
        step = half(data, 0) * (1 + 2 * field(data, 848 + 4 * (c // 32), 4))
        point = field(data, 16 + 8 * (c // 4), 8) + 256 * field(data, 528 + c // 4, 1)
        numbers.append(step * points("IQ3_S")[point, c % 4] * (1 - 2 * field(data, 592 + c, 1)))
    return numbers


DECODERS: dict[str, tuple[int, Callable[[bytes], list[float]]]] = {
    "IQ2_XXS": (66, iq2_xxs),
    "IQ2_XS": (74, iq2_xs),
    "IQ2_S": (82, iq2_s),
    "IQ3_XXS": (98, iq3_xxs),
    "IQ3_S": (110, iq3_s),
}

EVEN = ("IQ2_XXS", "IQ2_XS", "IQ3_XXS")
"""Formats whose vectors of eight have an even number of negative columns."""

GROUPS = {"IQ2_XXS": 32, "IQ2_XS": 16, "IQ2_S": 16, "IQ3_XXS": 32, "IQ3_S": 32}
"""Columns under one scale."""


def own_weights(name: str, span: Floats) -> Floats:
    """Squares plus their mean over the span; the root of that for the two smallest formats."""
    squares = span**2 + np.mean(span**2)
    return np.sqrt(squares) if name in ("IQ2_XXS", "IQ2_XS") else squares


def nearest(name: str, x: Floats, w: Floats, step: float) -> float:
    """The least error of eight columns `x` with weights `w`: every point, and where it must be, every flipped sign."""
    table = step * points(name)
    width = table.shape[1]
    parts = [slice(at, at + width) for at in range(0, 8, width)]
    plain = [float((w[p] * (table - abs(x[p])) ** 2).sum(1).min()) for p in parts]
    if name not in EVEN or sum(x < 0) % 2 == 0:
        return sum(plain)
    flipped = []
    for e in range(8):
        turned = abs(x)
        turned[e] *= -1
        flipped.append([float((w[p] * (table - turned[p]) ** 2).sum(1).min()) for p in parts])
    return min(sum(errors) for errors in flipped)


def error(name: str, group: Floats, w: Floats, step: float) -> float:
    return sum(nearest(name, group[at : at + 8], w[at : at + 8], step) for at in range(0, len(group), 8))


def search(name: str, span: Floats) -> float:
    """Weighted error of one span: the best of nine steps per group, then scales that are odd multiples of one step."""
    length, w = GROUPS[name], own_weights(name, span)
    groups = [(span[at : at + length], w[at : at + length]) for at in range(0, 256, length)]
    steps = []
    for group, own in groups:
        whole = abs(group).max() / points(name).max()
        tried = [whole * (0.65 + 0.1 * i) for i in range(9)]
        steps.append(min(tried, key=lambda step: error(name, group, own, step)))
    unit = max(steps) / 31
    odd = [2 * np.clip(np.rint((step / unit - 1) / 2), 0, 15) + 1 if unit else 1 for step in steps]
    return sum(error(name, *group, unit * multiple) for group, multiple in zip(groups, odd, strict=True))


SEARCHES: dict[str, Callable[[Floats], float]] = {name: partial(search, name) for name in DECODERS}
