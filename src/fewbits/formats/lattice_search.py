"""The nearest point of a lattice, by trying every point: the same one on every machine.

Errors of numbers are summed in a fixed tree: of pairs, of pairs of pairs, of halves. What a half of a point can become
is little (81 triples of levels in 4 columns, 64 pairs in 2), so its errors are made once for all points; a point costs
one more sum. docs/design/0004-lattices.md tells which of equally near points is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewbits.formats.lattices import points
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

AT_ONCE = 1 << 13
"""Vectors whose distances to all points are in memory at once."""

MOST_COUNTS = 32767.0
"""The largest whole number that an error is counted to."""


class Halves(NamedTuple):
    """Errors (halves, vectors) of everything that the first and the second half of a point can be."""

    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True)
class Lattice:
    """Points (count, width) of whole numbers, and what a search wants to know of them.

    `digits` (count, width) are the points as indices into `levels`. The digits of a half are a number, its first column
    counting most: `first` and `second` say which half a point begins and ends with, `order` lists points by `first`.
    """

    points: torch.Tensor
    levels: torch.Tensor
    digits: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    order: torch.Tensor

    @property
    def width(self) -> int:
        """Columns of a point."""
        return self.points.shape[1]

    def to(self, device: torch.device) -> Lattice:
        """The same lattice there."""
        names = ("points", "levels", "digits", "first", "second", "order")
        return self if self.points.device == device else Lattice(*(getattr(self, name).to(device) for name in names))

    def errors(self, x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """What each level of each number would cost: `weight` * (step * level - `x`)^2, (width, levels, vectors).

        `x` and `weight` are (vectors, width), `step` (vectors,). Vectors come last from here on, so that looking up
        points moves whole rows of memory.
        """
        r = step * self.levels[:, None] - x.T[:, None]
        return (weight.T[:, None] * r) * r

    def totals(self, halves: Halves) -> torch.Tensor:
        """The error of every point in `order`, (count, vectors)."""
        return halves.first[self.first[self.order]] + halves.second[self.second[self.order]]

    def least(self, x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The error (vectors,) of the nearest point to `x` (vectors, width), by numbers' `weight` (vectors, width)."""
        parts = zip(*(torch.split(t, AT_ONCE) for t in (x, weight, step)), strict=True)
        return torch.cat([self.totals(halves_of(self.errors(*part))).amin(0) for part in parts])

    def least_counts(self, x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """As `least`, each number's error rounded to a whole number, (vectors,): at most MOST_COUNTS, also in sum."""
        parts = zip(*(torch.split(t, AT_ONCE) for t in (x, weight, step)), strict=True)
        found = [self.totals(halves_of(self.errors(*part).clamp(max=MOST_COUNTS).round())).amin(0) for part in parts]
        return torch.cat(found).clamp(max=MOST_COUNTS)

    def nearest(
        self, errors: torch.Tensor, flipped: torch.Tensor | None = None, flip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Indices (vectors,) of the nearest points by `errors` (width, levels, vectors).

        Where `flip` (vectors,), one number, the best one for it, has its `flipped` error.
        """
        halves = halves_of(errors)
        totals = self.totals(halves)
        if flipped is None or flip is None:
            begin = self.first[self.order[totals.argmin(0)]]
            return self._end(halves.second, begin).argmin(0)
        other = flipped_halves_of(errors, flipped)
        totals = torch.where(flip, self.flipped_totals(halves, other), totals)
        begin = self.first[self.order[totals.argmin(0)]]
        plain_end, flipped_end = self._end(halves.second, begin), self._end(other.second, begin)
        in_first = _at(other.first, begin) + plain_end.amin(0) <= _at(halves.first, begin) + flipped_end.amin(0)
        return torch.where(flip & ~in_first, flipped_end, plain_end).argmin(0)

    def flipped_totals(self, halves: Halves, other: Halves) -> torch.Tensor:
        """As `totals`, with the flip in the one half or the other."""
        return torch.minimum(
            self.totals(Halves(other.first, halves.second)), self.totals(Halves(halves.first, other.second))
        )

    def _end(self, second: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
        """The errors (count, vectors) of points' second halves; infinite for points that begin otherwise."""
        return second[self.second].masked_fill(self.first[:, None] != begin, torch.inf)

    def at(self, errors: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The errors (width, vectors) of the points `index` (vectors,) out of `errors` (width, levels, vectors)."""
        return errors.gather(1, self.digits[index].T[:, None])[:, 0]


@cache
def lattice(name: str) -> Lattice:
    """The lattice that the format `name` brought."""
    table = torch.from_numpy(points(name).copy()).float()
    levels = torch.from_numpy(np.unique(points(name))).float()
    digits = torch.searchsorted(levels, table)
    half = table.shape[1] // 2
    place = len(levels) ** torch.arange(half - 1, -1, -1)
    first, second = ((part * place).sum(1) for part in torch.split(digits, half, 1))
    return Lattice(table, levels, digits, first, second, torch.argsort(first, stable=True))


def halves_of(errors: torch.Tensor) -> Halves:
    """The sums of `errors` (width, levels, vectors) for every half."""
    sums = list(errors.unbind(0))
    while len(sums) > 2:
        sums = [_every_sum(sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
    return Halves(*sums)


def flipped_halves_of(errors: torch.Tensor, flipped: torch.Tensor) -> Halves:
    """As `halves_of`, where one number in each half, the best one for it, has its `flipped` error."""
    sums, flips = list(errors.unbind(0)), list(flipped.unbind(0))
    while len(sums) > 2:
        pairs = range(0, len(sums), 2)
        flips = [torch.minimum(_every_sum(flips[i], sums[i + 1]), _every_sum(sums[i], flips[i + 1])) for i in pairs]
        sums = [_every_sum(sums[i], sums[i + 1]) for i in pairs]
    return Halves(*flips)


def flipped_place(errors: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
    """Which of the numbers whose `errors` are (n, vectors) is best `flipped`: the left one of equals, (vectors,)."""
    n = len(errors)
    if n == 1:
        return torch.zeros_like(errors[0], dtype=torch.long)
    left, right = torch.split(errors, n // 2)
    left_flip, right_flip = torch.split(flipped, n // 2)
    in_left = _flipped_sum(left, left_flip) + _tree_sum(right) <= _tree_sum(left) + _flipped_sum(right, right_flip)
    return torch.where(in_left, flipped_place(left, left_flip), n // 2 + flipped_place(right, right_flip))


def _tree_sum(errors: torch.Tensor) -> torch.Tensor:
    while len(errors) > 1:
        errors = errors[::2] + errors[1::2]
    return errors[0]


def _flipped_sum(errors: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
    while len(errors) > 1:
        flipped = torch.minimum(flipped[::2] + errors[1::2], errors[::2] + flipped[1::2])
        errors = errors[::2] + errors[1::2]
    return flipped[0]


def _every_sum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a[i] + b[j] for all i and j, (len a * len b, vectors), i counting most."""
    return (a[:, None] + b[None]).flatten(0, 1)


def _at(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return table.gather(0, index[None])[0]
