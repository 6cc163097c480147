"""Explicit registries: a name is added once, and an unknown name lists the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from fewbits.errors import FewbitsError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, in the order in which they were added.

    >>> colours = Registry[int]("colour", FewbitsError)
    >>> colours.add("red", 1)
    1
    >>> colours.get("rad")
    Traceback (most recent call last):
    fewbits.errors.FewbitsError: unknown colour 'rad'; did you mean 'red'? Known: red.
    """

    def __init__(self, kind: str, error: type[FewbitsError]) -> None:
        self.kind = kind
        self._error = error
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Add `item` under `name` and return it; raises ValueError when the name is taken."""
        if name in self._items:
            raise ValueError(f"{self.kind} '{name}' is registered already")
        self._items[name] = item
        return item

    def get(self, name: str) -> T:
        """Return the item called `name`; raises the registry's error, naming the nearest known names."""
        if name in self._items:
            return self._items[name]
        near = difflib.get_close_matches(name, self._items, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        raise self._error(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(self._items)}.")

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
