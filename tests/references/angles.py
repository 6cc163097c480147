"""Cosines, errors of states and nearest neighbours the slow way: plain Python floats, one vector at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]


def dot(p: Vector, q: Vector) -> float:
    return math.fsum(a * b for a, b in zip(p, q, strict=True))


def cosine(p: Vector, q: Vector) -> float:
    """0 where one of them is all zeros."""
    lengths = math.sqrt(dot(p, p)) * math.sqrt(dot(q, q))
    return dot(p, q) / lengths if lengths else 0.0


def state_error(p: Vector, q: Vector) -> float:
    """Of the original's state p; 1 where that is all zeros."""
    missed = [b - a for a, b in zip(p, q, strict=True)]
    return dot(missed, missed) / dot(p, p) if any(p) else 1.0


def nearest_other(vectors: Sequence[Vector], number: int) -> int:
    others = [n for n in range(len(vectors)) if n != number]
    return max(others, key=lambda n: cosine(vectors[number], vectors[n]))
