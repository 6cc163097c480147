"""Whether two lists of numbers put the same things in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import EvaluationError


def ranks(numbers: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The places (n,) of `numbers` (n,) in ascending order, from 1 on; equal ones share the mean of theirs.

    >>> ranks([10.0, 30.0, 10.0, 20.0]).tolist()
    [1.5, 4.0, 1.5, 3.0]
    """
    array: npt.NDArray[Any] = np.asarray(numbers, np.float64)
    _, places, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: npt.NDArray[np.float64] = ends - (counts - 1) / 2
    return mean[places]


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Pearson's correlation of ranks, from -1 to 1.

    Spearman 1904, "The proof and measurement of association between two things", with mean ranks for what is equal.
    Raises EvaluationError where one of the lists says nothing of an order.

    >>> round(spearman([1, 2, 3, 4], [10, 30, 20, 40]), 6)
    0.8
    """
    a, b = (ranks(each) - ranks(each).mean() for each in (one, other))
    if len(a) != len(b) or len(a) < 2 or not a.any() or not b.any():
        raise EvaluationError("ranks are compared of two lists of equal length whose numbers are not all the same.")
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
