"""Divergences of two texts token by token, with dictionaries and logarithms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def frequencies(ids: Sequence[int]) -> dict[int, float]:
    return {token: count / len(ids) for token, count in Counter(ids).items()}


def jensen_shannon(one: Sequence[int], other: Sequence[int]) -> float:
    """In bits: the mean of both texts' divergences from their mixture."""
    p, q = frequencies(one), frequencies(other)
    mixture = {token: (p.get(token, 0.0) + q.get(token, 0.0)) / 2 for token in {*p, *q}}
    return sum(sum(f * math.log2(f / mixture[token]) for token, f in text.items()) / 2 for text in (p, q))


def smoothed_kl(target: Sequence[int], calibration: Sequence[int], size: int) -> float:
    """In bits, each token of the vocabulary counted half a time more in both texts."""
    p, q = Counter(target), Counter(calibration)
    total = 0.0
    for token in range(size):
        pf = (p[token] + 0.5) / (len(target) + 0.5 * size)
        qf = (q[token] + 0.5) / (len(calibration) + 0.5 * size)
        total += pf * math.log2(pf / qf)
    return total


def unseen(target: Sequence[int], calibration: Sequence[int]) -> float:
    return sum(token not in set(calibration) for token in target) / len(target)
