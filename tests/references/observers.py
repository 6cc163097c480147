"""Ranges of static activations, float64 and number by number: no histogram but where the method itself is one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def extremes(samples: list[Doubles]) -> tuple[float, float]:
    numbers = [float(n) for sample in samples for n in sample.ravel()]
    return min(numbers), max(numbers)


def moving_average(samples: list[Doubles]) -> tuple[float, float]:
    return (
        sum(min(map(float, s.ravel())) for s in samples) / len(samples),
        sum(max(map(float, s.ravel())) for s in samples) / len(samples),
    )


def percentile(numbers: Doubles, share: float) -> float:
    """The smallest of `numbers` that at least `share` of them do not exceed."""
    ordered = sorted(map(float, numbers))
    return next(n for i, n in enumerate(ordered, start=1) if i >= share * len(ordered) - 1e-6)


def entropy_threshold(sizes: Doubles, codes: int, bins: int) -> float:
    """Migacz 2017, slide by slide: clip, merge, spread, compare."""
    top = float(sizes.max())
    histogram = [0.0] * bins
    for size in map(float, sizes):
        histogram[min(int(size * bins / top), bins - 1)] += 1
    kept = min(range(codes, bins + 1), key=lambda kept: divergence(histogram, kept, codes))
    return top * kept / bins


def divergence(histogram: Sequence[float], kept: int, codes: int) -> float:
    """Of the whole histogram, clipped after `kept` bins, from what `codes` can tell of it."""
    p = [float(n) for n in histogram[:kept]]
    p[-1] += sum(histogram[kept:])
    q = [0.0] * kept
    for code in range(codes):
        members = [i for i in range(kept) if i * codes // kept == code]
        filled = [i for i in members if histogram[i]]
        for i in filled:
            q[i] = sum(histogram[j] for j in members) / len(filled)
    return _divergence(p, q)


def _divergence(p: list[float], q: list[float]) -> float:
    if not sum(q):
        return math.inf
    total = 0.0
    for pi, qi in zip(p, q, strict=True):
        if pi and not qi:
            return math.inf
        if pi:
            total += pi / sum(p) * math.log((pi / sum(p)) / (qi / sum(q)))
    return total


def squared_error(numbers: Doubles, low: float, high: float, bits: int, *, symmetric: bool) -> float:
    """What codes of `bits` over (low, high) make of every number."""
    if symmetric:
        middle = 2 ** (bits - 1)
        scale, zero, bottom = max(-low, high) / (middle - 1) or 1.0, middle, 1
    else:
        scale, bottom = (high - low) / (2**bits - 1) or 1.0, 0
        zero = round(-low / scale)
    total = 0.0
    for number in map(float, numbers):
        code = min(max(round(number / scale) + zero, bottom), 2**bits - 1)
        total += (scale * (code - zero) - number) ** 2
    return total
