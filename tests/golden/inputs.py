"""The matrix that golden files are made of: whole numbers from a linear congruence, so that it is the same for ever."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

ROWS, COLS = 4, 512


def _numbers() -> Iterator[int]:
    """Whole numbers in 0 .. 65535, the upper bits of Knuth's 64-bit congruence."""
    state = 20261121
    while True:
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        yield state >> 48


def matrix() -> npt.NDArray[np.float32]:
    """(4, 512): nearly normal, heavy-tailed, positive with zeros, and narrow around -3; exact in binary32."""
    numbers = _numbers()

    def bell() -> int:
        return sum(next(numbers) for _ in range(6)) // 6 - 32768  # within +-32768

    rows = [
        [bell() / 2**20 for _ in range(COLS)],
        [(bell() ** 3 >> 24) / 2**16 for _ in range(COLS)],
        [max(bell(), 0) / 2**14 for _ in range(COLS)],
        [-3 + bell() / 2**18 for _ in range(COLS)],
    ]
    return np.array(rows, np.float64).astype(np.float32)
