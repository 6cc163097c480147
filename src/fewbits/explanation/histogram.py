"""Counts of numbers in even bins over a range that most of them lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits.explanation.matrix import Floats

BINS = 360
"""Divisible by the widths of most terminals' strips, and fine enough for a picture."""

DEVIATIONS = 4.0
"""The range reaches this many standard deviations from the mean: an outlier would make one bar of all the rest."""

Counts = npt.NDArray[np.int64]


@dataclass
class Extent:
    """What one pass over numbers tells about where they lie."""

    count: int = 0
    least: float = np.inf
    most: float = -np.inf
    total: float = 0.0
    squares: float = 0.0

    def add(self, w: Floats) -> None:
        """Take the numbers of a slab in."""
        self.count += w.size
        self.least, self.most = min(self.least, float(w.min())), max(self.most, float(w.max()))
        self.total += float(w.sum(dtype=np.float64))
        self.squares += float(np.square(w, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        """The mean of all numbers."""
        return self.total / self.count

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return float(np.sqrt(self.squares / self.count))

    def range(self) -> tuple[float, float]:
        """Where most numbers lie: four deviations around the mean, no further than they reach, never empty."""
        deviation = DEVIATIONS * float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))
        low, high = max(self.least, self.mean - deviation), min(self.most, self.mean + deviation)
        margin = (high - low) / BINS or abs(high) / 2 or 1.0
        return low - margin, high + margin


@dataclass(frozen=True)
class Bins:
    """Even bins from `low` to `high`; what lies outside is counted in neither."""

    low: float
    high: float

    def count(self, w: Floats) -> Counts:
        """How many of `w` lie in each bin."""
        place = np.floor((w.ravel() - self.low) * (BINS / (self.high - self.low)))
        inside = place[(place >= 0) & (place < BINS)].astype(np.int64)
        return np.bincount(inside, minlength=BINS)
