"""IQ1: what stored bytes mean, and a plain search, in float64; points from the gguf package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from references.bits import field, half
from references.lattices import points

Floats = npt.NDArray[np.float64]


def iq1_s(data: bytes) -> list[float]:
    """d, 32 bytes of points, and per 32 columns four times three bits on top of them, three of scale, one of shift."""
    numbers = []
    for c in range(256):
        v, upper = c // 8, 272 + 16 * (c // 32)
        point = field(data, 16 + 8 * v, 8) + 256 * field(data, upper + 3 * (v % 4), 3)
        shift = -0.125 if field(data, upper + 15, 1) else 0.125
        numbers.append(half(data, 0) * (1 + 2 * field(data, upper + 12, 3)) * (points("IQ1_S")[point, c % 8] + shift))
    return numbers


def iq1_m(data: bytes) -> list[float]:
    """32 bytes of points, 32 times three bits on top and one of shift, four times four scales and bits of d."""
    d = sum(field(data, 384 + 16 * part + 12, 4) << 4 * part for part in range(4))
    numbers = []
    for c in range(256):
        v, g = c // 8, c // 16
        point = field(data, 8 * v, 8) + 256 * field(data, 256 + 4 * v, 3)
        shift = -0.125 if field(data, 256 + 4 * v + 3, 1) else 0.125
        step = half(d.to_bytes(2, "little"), 0) * (1 + 2 * field(data, 384 + 16 * (g // 4) + 3 * (g % 4), 3))
        numbers.append(step * (points("IQ1_S")[point, c % 8] + shift))
    return numbers


DECODERS: dict[str, tuple[int, Callable[[bytes], list[float]]]] = {"IQ1_S": (50, iq1_s), "IQ1_M": (56, iq1_m)}

GROUPS = {"IQ1_S": (32, 32), "IQ1_M": (16, 8)}
"""Columns under one scale, and under one shift."""


def own_weights(name: str, span: Floats) -> Floats:
    """sqrt(2 * mean square + x^2) for IQ1_S, squares plus their mean over sixteen columns for IQ1_M."""
    if name == "IQ1_S":
        weights: Floats = np.sqrt(2 * np.mean(span**2) + span**2)
        return weights
    groups = span.reshape(-1, 16)
    return (groups**2 + np.mean(groups**2, axis=1, keepdims=True)).reshape(span.shape)


def by_levels(x: Floats, w: Floats, values: Floats) -> float:
    """The error of numbers at the nearest of three values each."""
    return float((w * ((values[:, None] - x) ** 2).min(0)).sum())


def by_points(x: Floats, w: Floats, step: float, shift: float) -> float:
    """The error of vectors at the nearest of all points each."""
    table = step * (points("IQ1_S") + shift)
    vectors = zip(x.reshape(-1, 8), w.reshape(-1, 8), strict=True)
    return sum(float((own * (table - vector) ** 2).sum(1).min()) for vector, own in vectors)


def error(name: str, group: Floats, w: Floats, step: float, *, lattice: bool) -> float:
    """Of a group, every shift at its best."""
    shared, total = GROUPS[name][1], 0.0
    for at in range(0, len(group), shared):
        x, own = group[at : at + shared], w[at : at + shared]
        if lattice:
            total += min(by_points(x, own, step, shift) for shift in (0.125, -0.125))
        else:
            total += min(by_levels(x, own, step * (np.array([-1, 0, 1]) + shift)) for shift in (0.125, -0.125))
    return total


def search(name: str, span: Floats) -> float:
    """Weighted error of one span: of six steps per group the one with the nearest levels, then odd multiples of one."""
    length, w = GROUPS[name][0], own_weights(name, span)
    groups = [(span[at : at + length], w[at : at + length]) for at in range(0, 256, length)]
    steps = []
    for group, own in groups:
        tried = [abs(group).max() * (0.5 + 0.1 * i) for i in range(6)]
        steps.append(min(tried, key=lambda step: error(name, group, own, step, lattice=False)))
    unit = float(np.float16(max(steps) / 15))
    odd = [2 * np.clip(np.rint((step / unit - 1) / 2), 0, 7) + 1 if unit else 1 for step in steps]
    return sum(error(name, *group, unit * multiple, lattice=True) for group, multiple in zip(groups, odd, strict=True))


SEARCHES: dict[str, Callable[[Floats], float]] = {name: partial(search, name) for name in DECODERS}
