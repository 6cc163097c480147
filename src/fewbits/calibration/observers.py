"""Ranges for activations whose scale is fixed before the model runs, from what statistics say of them.

An observer reads one statistic and chooses (low, high), the numbers that the lowest and the highest code stand for.
0 is always within: padding and the zeros of a ReLU come back as they are. Beyond the range numbers are clipped, within
it they are rounded: what observers differ in is how they weigh one against the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fewbits.errors import CalibrationError
from fewbits.registry import Registry

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """What the lowest and the highest code stand for: low <= 0 <= high."""

    low: float
    high: float

    def steps(self, bits: int, *, symmetric: bool) -> tuple[float, int]:
        """Scale and zero point of whole numbers of `bits`: x ~ scale * (code - zero), codes from 0.

        Symmetric codes stand around 2^(bits - 1) and leave out the lowest one. Where all numbers are 0 the scale is 1.

        >>> Range(-1.0, 3.0).steps(2, symmetric=False)
        (1.3333333333333333, 1)
        >>> Range(-1.0, 3.0).steps(8, symmetric=True)[1]
        128
        """
        if symmetric:
            middle = 2 ** (bits - 1)
            return (max(-self.low, self.high) / (middle - 1) or 1.0), middle
        scale = (self.high - self.low) / (2**bits - 1) or 1.0
        return scale, round(-self.low / scale)


class Observer(Protocol):
    """One way to choose a range."""

    @property
    def needs(self) -> str:
        """The statistic it reads, by its name in the registry."""

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """The range for codes of `bits` from the statistic's `value`; symmetric ones reach equally far to both sides.

        Raises CalibrationError where the inputs hold numbers that are none.
        """


def _range(low: float, high: float, *, symmetric: bool) -> Range:
    if not np.isfinite([low, high]).all():
        raise CalibrationError(
            "the inputs of this matrix hold NaN or infinite numbers; the model or its text is damaged."
        )
    low, high = min(low, 0.0), max(high, 0.0)
    reach = max(-low, high)
    return Range(-reach, reach) if symmetric else Range(low, high)


@dataclass(frozen=True)
class Extremes:
    """From the smallest to the largest number that was seen: nothing is clipped, and one outlier decides."""

    needs: str = "minmax"

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """From `value` (2, cols)."""
        return _range(float(value[0].min()), float(value[1].max()), symmetric=symmetric)


@dataclass(frozen=True)
class MovingAverage:
    """From the average of the samples' smallest to that of their largest numbers: an outlier counts as one of many.

    Jacob et al. 2018, arXiv:1712.05877, section 3.1, smooth ranges exponentially over the steps of training; over a
    text that is read once every sample weighs the same, so that their order does not matter.
    """

    needs: str = "sample_range"

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """From `value` (2,)."""
        return _range(float(value[0]), float(value[1]), symmetric=symmetric)


@dataclass(frozen=True)
class Percentile:
    """The range that holds a share of the numbers; asymmetric ones leave out as many below as above."""

    share: float = 0.9999
    needs: str = "histogram"

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """From `value` (2, n)."""
        numbers, counts = _points(value)
        if symmetric:
            reach = _quantile(*_magnitudes(numbers, counts), self.share)
            return _range(-reach, reach, symmetric=True)
        outside = (1.0 - self.share) / 2
        low, high = _quantile(numbers, counts, outside), _quantile(numbers, counts, 1.0 - outside)
        return _range(low, high, symmetric=False)


@dataclass(frozen=True)
class Entropy:
    """The threshold whose rounded histogram tells least from the whole one, by Kullback-Leibler divergence.

    Migacz 2017, "8-bit inference with TensorRT", GTC 2017: magnitudes in 2048 equal bins; for every threshold from as
    many bins as there are codes on, P is the histogram with what lies beyond put into its last bin, Q the histogram
    without that, merged into one bin per code and spread evenly over those of its bins that hold anything.
    """

    bins: int = 2048
    needs: str = "histogram"

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """From `value` (2, n)."""
        numbers, counts = _points(value)
        low, high = min(float(numbers[0]), 0.0), max(float(numbers[-1]), 0.0)
        one_sided = not symmetric and (low == 0.0 or high == 0.0)
        reach = max(-low, high)
        if reach == 0.0:
            return Range(0.0, 0.0)
        codes = 2**bits if one_sided else 2 ** (bits - 1)
        even = even_bins(*_magnitudes(numbers, counts), self.bins)
        threshold = reach * _least_divergence(even, codes) / self.bins
        return _range(max(low, -threshold), min(high, threshold), symmetric=symmetric)


@dataclass(frozen=True)
class SquaredError:
    """The range with the least squared error, rounding and clipping together, of `tries` ranges in three rounds.

    The whole range is shrunk first; then, where the two sides may differ, each side alone, and the first one again.
    """

    tries: int = 100
    needs: str = "histogram"

    def range(self, value: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
        """From `value` (2, n)."""
        numbers, counts = _points(value)
        whole = _range(float(numbers[0]), float(numbers[-1]), symmetric=symmetric)
        shares = [tried / self.tries for tried in range(self.tries, 0, -1)]

        def best(candidates: list[Range]) -> Range:
            return min(candidates, key=lambda r: rounding_error(numbers, counts, r, bits, symmetric=symmetric))

        found = best([Range(whole.low * share, whole.high * share) for share in shares])
        if symmetric:
            return found
        for _ in range(2):
            found = best([found, *(Range(found.low, whole.high * share) for share in shares)])
            found = best([found, *(Range(whole.low * share, found.high) for share in shares)])
        return found


def rounding_error(numbers: Doubles, counts: Doubles, range_: Range, bits: int, *, symmetric: bool) -> float:
    """Sum of squared errors of `numbers` (n,), each `counts` (n,) times, as codes of `bits` over `range_`."""
    scale, zero = range_.steps(bits, symmetric=symmetric)
    codes = np.clip(np.round(numbers / scale) + zero, int(symmetric), 2**bits - 1)
    errors = scale * (codes - zero) - numbers
    return float(counts @ (errors * errors))


def _points(value: torch.Tensor) -> tuple[Doubles, Doubles]:
    """Numbers (n,) ascending and counts (n,) of a histogram's value (2, n)."""
    both: Doubles = value.cpu().numpy()
    return both[0], both[1]


def _magnitudes(numbers: Doubles, counts: Doubles) -> tuple[Doubles, Doubles]:
    """The same of magnitudes."""
    sizes = np.abs(numbers)
    order = np.argsort(sizes, kind="stable")
    return sizes[order], counts[order]


def _quantile(numbers: Doubles, counts: Doubles, share: float) -> float:
    """The smallest number that at least `share` of all numbers do not exceed."""
    sums = np.cumsum(counts)
    # Shares such as 1 - 1e-4 are not exact: what is short of a count by rounding alone counts as reached.
    return float(numbers[min(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12)), len(numbers) - 1)])


def even_bins(sizes: Doubles, counts: Doubles, bins: int) -> Doubles:
    """Counts (bins,) in equal bins from 0 to the largest of `sizes`, which is in the last one."""
    places = np.minimum((sizes * (bins / sizes[-1])).astype(np.int64), bins - 1)
    sums: Doubles = np.bincount(places, weights=counts, minlength=bins).astype(np.float64)
    return sums


def _least_divergence(counts: Doubles, codes: int) -> int:
    """The number of bins, of those from `codes` on, after which to clip `counts` (bins,)."""
    bins = len(counts)
    if codes >= bins:
        return bins
    divergences = [divergence(counts, kept, codes) for kept in range(codes, bins + 1)]
    return codes + int(np.argmin(divergences))


def divergence(counts: Doubles, kept: int, codes: int) -> float:
    """KL(P, Q) of Migacz' two histograms after the first `kept` bins of `counts`; infinite where Q cannot tell P."""
    inside = counts[:kept]
    p = inside.copy()
    p[-1] += counts[kept:].sum()
    groups = np.arange(kept) * codes // kept
    held = inside > 0
    total, filled = np.bincount(groups, weights=inside), np.bincount(groups, weights=held)
    q = np.where(held, total[groups] / np.maximum(filled[groups], 1), 0.0)
    told = p > 0
    if not q.any() or not (q[told] > 0).all():
        return np.inf
    p, q = p[told] / p.sum(), q[told] / q.sum()
    return float(p @ np.log(p / q))


OBSERVERS: Registry[Callable[[], Observer]] = Registry("observer", CalibrationError)
OBSERVERS.add("minmax", Extremes)
OBSERVERS.add("moving_average", MovingAverage)
OBSERVERS.add("percentile", Percentile)
OBSERVERS.add("entropy", Entropy)
OBSERVERS.add("mse", SquaredError)
