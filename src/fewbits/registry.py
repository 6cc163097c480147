"""Explicit registries: a name is added once, and an unknown name lists the known ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
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
        self._families: dict[str, Callable[[str], T]] = {}

    def add(self, name: str, item: T) -> T:
        """Add `item` under `name` and return it; raises ValueError when the name is taken."""
        if name in self._items:
            raise ValueError(f"{self.kind} '{name}' is registered already")
        self._items[name] = item
        return item

    def add_family(self, pattern: str, parse: Callable[[str], T]) -> None:
        """Let `parse` make the items whose names match the regular expression `pattern` as a whole.

        Names say all parameters of an item, so a family has more members than can be listed; those that are added by
        name are its representatives. `parse` raises the registry's error for a name that states no member.
        """
        if pattern in self._families:
            raise ValueError(f"the family '{pattern}' is registered already")
        self._families[pattern] = parse

    def get(self, name: str) -> T:
        """Return the item called `name`; raises the registry's error, naming the nearest known names."""
        if name in self._items:
            return self._items[name]
        for pattern, parse in self._families.items():
            if re.fullmatch(pattern, name):
                return parse(name)
        near = difflib.get_close_matches(name, self._items, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        raise self._error(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(self._items)}.")

    def __contains__(self, name: object) -> bool:
        """Whether `get` knows the name, members of families included."""
        if not isinstance(name, str):
            return False
        try:
            self.get(name)
        except self._error:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
