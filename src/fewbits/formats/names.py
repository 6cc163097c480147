"""How the names of parameterized formats are read: words joined by `_`, each of which says one parameter.

    KIND_SCOPE[_WORD ...]           int4_g128_sym_f16    uint8_row_asym    nf4_g64_dq    int8_tensor_sym

KIND says what codes stand for, SCOPE which numbers share a scale, and the words after them, in an order that each
family fixes, what else there is to choose. A word that says what goes without saying may be left out where the family
allows it; `Format.name` is the one name in which every format calls itself. docs/design/0005-families.md has the list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from fewbits.errors import FormatError

T = TypeVar("T")
WIDEST = 2**20
"""Groups and tiles beyond this are taken for a slip of the keyboard."""


@dataclass(frozen=True)
class Scope:
    """Which numbers share a scale: those of `span` columns in `rows` rows, 0 = all.

    >>> [Scope.of(word) for word in ("tensor", "row", "g128", "tile128")]
    [Scope(rows=0, span=0), Scope(rows=1, span=0), Scope(rows=1, span=128), Scope(rows=128, span=128)]
    """

    rows: int
    span: int

    @property
    def word(self) -> str:
        """The word in a name."""
        if self.span:
            return f"g{self.span}" if self.rows == 1 else f"tile{self.span}"
        return "row" if self.rows else "tensor"

    @property
    def what(self) -> str:
        """What has a scale, in words."""
        if self.span:
            return f"{self.span} columns" if self.rows == 1 else f"tile of {self.rows} x {self.span}"
        return "row" if self.rows else "tensor"

    @staticmethod
    def of(word: str) -> Scope | None:
        """The scope that `word` states; None when it states none."""
        if word in ("tensor", "row"):
            return Scope(int(word == "row"), 0)
        stated = re.fullmatch(r"(g|tile)([1-9]\d{0,6})", word)
        if not stated or not 2 <= int(stated[2]) <= WIDEST:
            return None
        return Scope(1 if stated[1] == "g" else int(stated[2]), int(stated[2]))


class Words:
    """The words of a name, taken from left to right.

    >>> words = Words("int4_g128_asym")
    >>> words.kind(), words.scope(), words.one_of({"sym": True, "asym": False}), words.end()
    ('int4', Scope(rows=1, span=128), False, None)
    >>> words = Words("int4_g128_symm")
    >>> words.kind(), words.scope(), words.one_of({"sym": True, "asym": False}, True), words.end()
    Traceback (most recent call last):
    fewbits.errors.FormatError: unknown format 'int4_g128_symm': there is no word 'symm' at its end; did you mean \
'int4_g128_sym' or 'int4_g128_asym'?
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._words = name.split("_")
        self._at = 0
        self._skipped: list[str] = []

    def kind(self) -> str:
        """The first word."""
        self._at = 1
        return self._words[0]

    def scope(self, scopes: tuple[str, ...] = ("tensor", "row", "g")) -> Scope:
        """The second word, one of `scopes` (and a number); raises FormatError where there is none such."""
        word = self._next()
        scope = Scope.of(word)
        if scope is None or scope.word.rstrip("0123456789") not in scopes:
            known = [*(s if s in ("tensor", "row") else f"{s}128" for s in scopes)]
            raise self._refused(f"it does not say which numbers share a scale (a group has 2 to {WIDEST})", known)
        self._at += 1
        return scope

    def one_of(self, choices: Mapping[str, T], default: T | None = None) -> T:
        """What the next word chooses; `default` where it is none of `choices`; without a default FormatError."""
        word = self._next()
        if word in choices:
            self._at += 1
            self._skipped.clear()
            return choices[word]
        if default is None:
            raise self._refused(f"the word '{word}' says nothing there" if word else "it ends too soon", [*choices])
        self._skipped += choices
        return default

    def has(self, word: str) -> bool:
        """Whether the next word is `word`, which is then taken."""
        return self.one_of({word: True}, False)

    def end(self) -> None:
        """Raise FormatError unless all words were taken."""
        if self._at < len(self._words):
            raise self._refused(f"there is no word '{self._next()}' at its end", self._skipped or [""])

    def refuse(self, why: str, *near: str) -> FormatError:
        """The error that says why there is no such format, and which names are near."""
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        return FormatError(f"unknown format '{self.name}': {why}{hint}")

    def _next(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _refused(self, why: str, choices: list[str]) -> FormatError:
        near = difflib.get_close_matches(self._next(), choices, n=2, cutoff=0.4) or choices[:3]
        rest = self._words[self._at + 1 :]
        return self.refuse(
            why, *("_".join([*self._words[: self._at], *([word] if word else []), *rest]) for word in near)
        )
