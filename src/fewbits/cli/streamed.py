"""Text that a model writes, on stdout while it is written; what is said about it, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from fewbits.cli.progress import Report, progress_report

_PLAIN = "\n\t"


class Streamed:
    """Writes pieces of text to stdout at once; in a terminal, control characters stay visible and do nothing."""

    def __init__(self) -> None:
        self._visible = sys.stdout.isatty()
        self._at_line_start = True

    def __call__(self, piece: str) -> None:
        """Write a piece."""
        if not piece:
            return
        sys.stdout.write(shown(piece) if self._visible else piece)
        sys.stdout.flush()
        self._at_line_start = piece.endswith("\n")

    def end(self) -> None:
        """End the line that was begun."""
        if not self._at_line_start:
            self("\n")


@contextmanager
def until_text(streamed: Streamed, *, quiet: bool) -> Iterator[tuple[Callable[[str], None], Report]]:
    """What takes the pieces of a text, and what is told how far the work before it is: bars that the text ends."""
    with ExitStack() as bars:
        report = bars.enter_context(progress_report("prepare", "read", quiet=quiet))

        def write(piece: str) -> None:
            bars.close()
            streamed(piece)

        yield write, report


def shown(text: str) -> str:
    """`text` with control characters as escapes: what a model writes must not steer a terminal.

    >>> shown("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\n'
    """
    return "".join(c if c in _PLAIN or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def note(text: str) -> None:
    """Say something on stderr."""
    sys.stderr.write(f"fewbits: {text}\n")
    sys.stderr.flush()
