"""In which order batches are seen: of the seed and of nothing else, so that a place in it is one number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol


class Batches(Protocol):
    """An endless row of batches, of which one pass over the data has `len(batches)`."""

    def __len__(self) -> int:
        """Batches of one pass."""

    def at(self, position: int) -> Any:
        """The batch at `position` (from 0) of the endless row."""


def shuffled(count: int, seed: int, turn: int) -> list[int]:
    """The numbers below `count` in the order of pass `turn`.

    >>> shuffled(5, 0, 0), shuffled(5, 0, 1)
    ([3, 0, 4, 1, 2], [0, 1, 3, 2, 4])
    """
    chance = random.Random(f"{seed} {turn}")  # noqa: S311 - whoever knows the seed shall know the order
    keys = [chance.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


class Shuffled:
    """Batches that somebody has in a sequence, in a new order at each pass.

    >>> row = Shuffled(["a", "b", "c"], seed=1)
    >>> len(row), [row.at(position) for position in range(6)]
    (3, ['b', 'c', 'a', 'b', 'a', 'c'])
    """

    def __init__(self, batches: Sequence[Any], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._turn: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def at(self, position: int) -> Any:
        """The batch at `position`."""
        turn, place = divmod(position, len(self._batches))
        if self._turn is None or self._turn[0] != turn:
            self._turn = (turn, shuffled(len(self._batches), self._seed, turn))
        return self._batches[self._turn[1][place]]


def as_batches(given: Batches | Sequence[Any], seed: int) -> Batches:
    """What was given, as a row: it has an order of its own, or gets one."""
    return given if hasattr(given, "at") else Shuffled(given, seed)
