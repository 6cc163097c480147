"""Optimal brain quantization in a fixed order, float64, row by row: what GPTQ computes, written with inverses.

Frantar et al. 2022 (arXiv:2208.11580, section 4, and arXiv:2210.17323, section 3): round column j, move the columns to
come by the error over [H^-1]_jj along row j of H^-1, and take column j out of H^-1 by one step of Gaussian elimination.
No Cholesky factor, no chunks, no matrix of weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


Rounded = Callable[[int, Doubles, int, Doubles], Doubles]


def sweep(w: Doubles, hessian: Doubles, rounded: Rounded, vector: int = 1) -> Doubles:
    """The numbers (rows, cols) that `rounded` leaves of `w` (rows, cols).

    It is given the row, the columns to come as they are by now, the first one, and what errors e of the first `vector`
    cost once the others have made up for them, as a matrix (vector, vector) m: e m e^T.
    """
    result = np.empty_like(w)
    for row in range(len(w)):
        rest, inverse = w[row].copy(), np.linalg.inv(hessian)
        for at in range(0, w.shape[1], vector):
            these = slice(at, at + vector)
            metric = np.linalg.inv(inverse[these, these])
            result[row, these] = rounded(row, rest[at:].copy(), at, metric)
            error = metric @ (rest[these] - result[row, these])
            rest -= error @ inverse[these, :]
            for column in range(at, at + vector):
                inverse -= np.outer(inverse[:, column], inverse[column, :]) / inverse[column, column]
                inverse[column, :] = inverse[:, column] = 0.0
    return result
