"""On which line of a TOML text something is said; the parser of the standard library does not tell.

A line begins to say something when the text before it parses without it, and some text that ends later parses with it.
So any TOML is understood, strings over several lines included, and nothing is parsed twice in two ways.
"""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


def line_of(text: str, path: tuple[str | int, ...], item: str | None = None) -> int | None:
    """Number, from 1, of the line of `text` that states `path`; None when none does.

    With `item`, the line within that statement which quotes it, where there is one.

    >>> line_of('a = 1\\n[[rule]]\\n[[rule]]\\nb = [\\n "x",\\n "y"]', ("rule", 1, "b"))
    4
    >>> line_of('a = 1\\n[[rule]]\\n[[rule]]\\nb = [\\n "x",\\n "y"]', ("rule", 1, "b"), "y")
    6
    """
    lines = text.splitlines()
    word = next((part for part in reversed(path) if isinstance(part, str)), "")
    for start in (number for number, line in enumerate(lines) if word in line):
        if _states(lines[:start], path) is not False:
            continue
        for stop in range(start + 1, len(lines) + 1):
            stated = _states(lines[:stop], path)
            if stated:
                return 1 + _quoting(lines, start, stop, item)
            if stated is not None:
                break
    return None


def _quoting(lines: list[str], start: int, stop: int, item: str | None) -> int:
    if item is None:
        return start
    return next((n for n in range(start, stop) if f'"{item}"' in lines[n] or f"'{item}'" in lines[n]), start)


def _states(lines: list[str], path: tuple[str | int, ...]) -> bool | None:
    """Whether the text of `lines` states `path`; None when it is not TOML, cut in the middle of something."""
    try:
        value: Any = tomllib.loads("\n".join(lines) + "\n")
    except tomllib.TOMLDecodeError:
        return None
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
