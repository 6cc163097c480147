"""Coordinate descent on codes, float64, number by number, every cost counted anew: what is changed in blocks elsewhere.

Behdin et al. 2023 (arXiv:2309.01885, algorithm 1): the columns of a row in turn, each to the number that makes
tr(E H E^T) least while the others stay. And the least sum of roots of errors over all scales and zero points of a fine
raster, which is what HQQ looks for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def cost(error: Doubles, hessian: Doubles) -> float:
    """e H e^T of one row."""
    return float(sum(error[i] * error[j] * hessian[i, j] for i in range(len(error)) for j in range(len(error))))


def descended(w: Doubles, start: Doubles, hessian: Doubles, choices: Doubles, columns: range) -> Doubles:
    """The numbers (rows, cols) after one pass over `columns` from `start`; `choices` is (rows, cols, numbers)."""
    found = start.copy()
    for row in range(len(w)):
        for at in columns:
            error = w[row] - found[row]
            least = cost(error, hessian)
            for number in choices[row, at]:
                error[at] = w[row, at] - number
                if cost(error, hessian) < least - 1e-12:
                    least, found[row, at] = cost(error, hessian), number
    return found


def least_roots(w: Doubles, top: int, squares: float) -> float:
    """The least sum |w - step * (code - zero)|^(1/2) over steps of a raster, whole zeros and the nearest codes.

    Sums of squares above `squares` do not count.
    """
    reach = w.max() - w.min()
    best = np.inf
    for step in np.linspace(0.3, 1.3, 400) * reach / top:
        for zero in range(top + 1):
            codes = np.clip(np.round(w / step) + zero, 0, top)
            error = w - step * (codes - zero)
            if (error**2).sum() <= squares:
                best = min(best, float(np.sqrt(np.abs(error)).sum()))
    return best
