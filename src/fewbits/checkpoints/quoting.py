"""Show what a file says inside an error message, whatever it says."""

from __future__ import annotations

_LIMIT = 80


def quoted(value: object) -> str:
    """`value` as Python writes it, cut after 80 characters: a hostile name must not flood or steer the terminal.

    >>> quoted("blk.0\\x1b[2J")
    "'blk.0\\\\x1b[2J'"
    """
    if isinstance(value, (str, list)):
        value = value[: 2 * _LIMIT]
    text = repr(value)
    return text if len(text) <= _LIMIT else f"{text[: _LIMIT - 3]}..."


def named(value: object) -> str:
    """The same for the name of a kind: a text stands without its quotation marks.

    >>> named("Unigram"), named(["x"])
    ('Unigram', "['x']")
    """
    return quoted(value)[1:-1] if isinstance(value, str) else quoted(value)
