"""How a checkpoint's tensor is seen as a stack of matrices, of which a GGUF tensor takes a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

BEHIND, ALTERNATING = "+", ":"
"""Between the names of two widths of one side: one part lies behind the other, or their lines alternate."""


def widths_on(side: str) -> tuple[str, ...]:
    """The names of the widths that one side of a view is made of.

    >>> widths_on("hidden"), widths_on("nope + value"), widths_on("ffn : ffn")
    (('hidden',), ('nope', 'value'), ('ffn', 'ffn'))
    """
    return tuple(name.strip() for name in side.replace(ALTERNATING, BEHIND).split(BEHIND))


@dataclass(frozen=True)
class View:
    """A tensor seen with the sides `shape`, of which the lines `picks` are taken on each side.

    Where it is `turned`, the last two sides of what was taken change places. A `merged` tensor has its first two sides
    as one in the checkpoint.
    """

    shape: tuple[int, ...]
    picks: tuple[slice, ...]
    turned: bool = False
    merged: bool = False

    @staticmethod
    def of(sides: Sequence[str], take: int, widths: Mapping[str, int], *, turned: bool, merged: bool) -> View:
        """The view that facts describe: on a side of several parts, part number `take` is taken."""
        shape, picks = zip(*(_side(side, take, widths) for side in sides), strict=True)
        return View(shape, picks, turned, merged)

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape in the checkpoint."""
        return (self.shape[0] * self.shape[1], *self.shape[2:]) if self.merged else self.shape

    @property
    def taken(self) -> tuple[int, ...]:
        """The shape of what is taken."""
        sides = tuple(len(range(*pick.indices(size))) for pick, size in zip(self.picks, self.shape, strict=True))
        return (*sides[:-2], sides[-1], sides[-2]) if self.turned else sides

    @property
    def share(self) -> float:
        """What part of the tensor is taken."""
        return prod(self.taken) / prod(self.shape)

    @property
    def upright(self) -> View:
        """The same part of a checkpoint that has rows as rows, as quantized stacks have them."""
        if not self.turned:
            return self
        (*more, rows, cols), (*others, own_rows, own_cols) = self.shape, self.picks
        return View((*more, cols, rows), (*others, own_cols, own_rows), turned=False, merged=self.merged)

    def put(self, whole: Any, part: Any) -> None:
        """Write `part`, of the shape `taken`, to its place in the array `whole`, of the shape `stored`."""
        whole.reshape(self.shape)[self.picks] = part.swapaxes(-1, -2) if self.turned else part


def _side(side: str, take: int, widths: Mapping[str, int]) -> tuple[int, slice]:
    parts = [widths[name] for name in widths_on(side)]
    total = sum(parts)
    if len(parts) == 1:
        return total, slice(0, total)
    if ALTERNATING in side:
        return total, slice(take, total, len(parts))
    first = sum(parts[:take])
    return total, slice(first, first + parts[take])
