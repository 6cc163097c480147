"""The nearest even grid for a few numbers, by trying every way to give them codes: nothing of fewbits is imported."""

from __future__ import annotations

from itertools import product

import numpy as np


def least_error(x: np.ndarray, weight: np.ndarray, codes: int) -> float:
    """The least weighted squared error of scale * code + offset for `x` (n,), over all codes, scales and offsets."""
    root = np.sqrt(weight)
    best = float((weight * (x - np.average(x, weights=weight)) ** 2).sum())
    for chosen in product(range(codes), repeat=len(x)):
        q = np.array(chosen, np.float64)
        if len(set(chosen)) > 1:
            sides = np.stack([root * q, root], axis=1)
            line, *_ = np.linalg.lstsq(sides, root * x, rcond=None)
            best = min(best, float((weight * (x - line[0] * q - line[1]) ** 2).sum()))
    return best


def line_at(x: np.ndarray, weight: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Scale and offset of the least-squares line through `x` (n,) at `codes`."""
    root = np.sqrt(weight)
    line, *_ = np.linalg.lstsq(np.stack([root * codes, root], axis=1), root * x, rcond=None)
    return float(line[0]), float(line[1])
