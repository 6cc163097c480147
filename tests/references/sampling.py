"""The choice of tokens, slow and obvious: everything is sorted, exponentials have 50 digits, no number a width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

ONE = 2**40
MASK = 2**64 - 1


@dataclass(frozen=True)
class Settings:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    seed: int = 0


def choose(
    logits: np.ndarray, history: Sequence[int], allowed: Sequence[bool] | None, settings: Settings, draw: int
) -> int:
    """The token at the draw number `draw` of a seed, from 1 on."""
    scores = punished(logits, history, settings)
    tokens = [t for t in range(len(scores)) if (allowed is None or allowed[t]) and scores[t] > -np.inf]
    tokens.sort(key=lambda t: (-scores[t], t))
    if settings.temperature == 0:
        return tokens[0]
    weights = weigh(kept(tokens, scores, settings), scores, settings)
    target = (random_number(settings.seed, draw) * sum(weights.values())) // 2**64
    for token in sorted(weights):
        target -= weights[token]
        if target < 0:
            return token
    raise AssertionError("the weights do not sum up")


def punished(logits: np.ndarray, history: Sequence[int], settings: Settings) -> list[float]:
    scores = [float(x) for x in logits]
    recent = history[-settings.repetition_window :] if settings.repetition_window else history
    for token in {t for t in recent if 0 <= t < len(scores)}:
        old = scores[token]
        new = old / settings.repetition_penalty if old > 0 else old * settings.repetition_penalty
        scores[token] = float(np.float32(new))
    return scores


def kept(tokens: list[int], scores: list[float], settings: Settings) -> list[int]:
    """Of tokens in order those that top-k, top-p and min-p leave."""
    if settings.top_k:
        tokens = tokens[: settings.top_k]
    weights = weigh(tokens, scores, settings)
    if settings.top_p < 1:
        # The share is rounded as doubles are, so that a tenth of 40 equal tokens is four of them.
        wanted, total, count = math.ceil(settings.top_p * float(sum(weights.values()))), 0, 0
        for token in tokens:
            total, count = total + weights[token], count + 1
            if total >= wanted:
                break
        tokens = tokens[:count]
    return [token for token in tokens if weights[token] >= math.ceil(settings.min_p * ONE)]


def weigh(tokens: list[int], scores: list[float], settings: Settings) -> dict[int, int]:
    """Probabilities in units of 2^-40 of the best one's."""
    with localcontext() as context:
        context.prec = 50
        best = Decimal(scores[tokens[0]])
        exact = {t: ((Decimal(scores[t]) - best) / Decimal(settings.temperature)).exp() for t in tokens}
        return {t: int(e * ONE) for t, e in exact.items()}


def random_number(seed: int, draw: int) -> int:
    return mixed((mixed(seed) + draw * 0x9E3779B97F4A7C15) & MASK)


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)
