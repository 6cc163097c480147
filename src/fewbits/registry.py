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
        self._loads: dict[str, Callable[[], T]] = {}
        self._loaded: dict[str, T] = {}
        self._families: dict[str, Callable[[str], T]] = {}
        self._rest: Callable[[], None] | None = None

    def add(self, name: str, item: T) -> T:
        """Add `item` under `name` and return it; raises ValueError when the name is taken."""
        self.add_later(name, lambda: item)
        self._loaded[name] = item
        return item

    def add_later(self, name: str, load: Callable[[], T]) -> None:
        """Add under `name` what `load` returns when it is first asked for; raises ValueError when the name is taken."""
        if name in self._loads:
            raise ValueError(f"{self.kind} '{name}' is registered already")
        self._loads[name] = load

    def add_rest(self, add: Callable[[], None]) -> None:
        """Let `add` add more before the first question that what is here does not answer."""
        self._rest = add

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
        if name in self._loads:
            if name not in self._loaded:
                self._loaded[name] = self._loads[name]()
            return self._loaded[name]
        if self._complete():
            return self.get(name)
        for pattern, parse in self._families.items():
            if re.fullmatch(pattern, name):
                return parse(name)
        near = difflib.get_close_matches(name, self._loads, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        raise self._error(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(self._loads)}.")

    def _complete(self) -> bool:
        """Add the rest, if it has not been added; whether anything was to be added."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest()
        return rest is not None

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
        self._complete()
        return iter(self._loads)

    def __len__(self) -> int:
        self._complete()
        return len(self._loads)
