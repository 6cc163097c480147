"""The nearest even grid for a few numbers, by trying every way to give them codes: nothing of fewbits is imported."""

from __future__ import annotations

from itertools import product

import numpy as np


def least_error(x: np.ndarray, weight: np.ndarray, codes: int) -> float:
    """The least weighted squared error of scale * code + offset for `x` (n,), over all codes, scales and offsets.

    What a line leaves is the energy about the mean less the covariance with the codes squared over their variance.
    """
    every = np.array(list(product(range(codes), repeat=len(x))), np.float64)
    share = weight / weight.sum()
    apart, about = every - (every @ share)[:, None], x - x @ share
    variance, covariance = (apart**2) @ weight, apart @ (weight * about)
    gained = np.divide(covariance**2, variance, out=np.zeros_like(variance), where=variance > 1e-9)
    return float((weight * about**2).sum() - gained.max())


def line_at(x: np.ndarray, weight: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Scale and offset of the least-squares line through `x` (n,) at `codes`."""
    root = np.sqrt(weight)
    line, *_ = np.linalg.lstsq(np.stack([root * codes, root], axis=1), root * x, rcond=None)
    return float(line[0]), float(line[1])
