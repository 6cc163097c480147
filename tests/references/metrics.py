"""Perplexity, KL divergence and percentiles the slow way: one token at a time, plain Python floats."""

from __future__ import annotations

import math
from collections.abc import Sequence


def log_probabilities(logits: Sequence[float]) -> list[float]:
    """ln softmax of one token's logits."""
    top = max(logits)
    total = math.fsum(math.exp(x - top) for x in logits)
    return [x - top - math.log(total) for x in logits]


def kl_divergence(p_logits: Sequence[float], q_logits: Sequence[float]) -> float:
    """KL(P || Q) of one token in nats."""
    p, q = log_probabilities(p_logits), log_probabilities(q_logits)
    return math.fsum(math.exp(a) * a for a in p) - math.fsum(math.exp(a) * b for a, b in zip(p, q, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The linearly interpolated percentile: rank (n - 1) * percent / 100 of the sorted values."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, from the sum of squares."""
    n = len(values)
    mean = math.fsum(values) / n
    # Cancellation can leave a negative number of about the rounding error where all values are equal.
    return mean, math.sqrt(max(0.0, math.fsum(v * v for v in values) - n * mean * mean) / (n - 1) / n)
