"""Where a command's words go: tables or one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH_WITHOUT_TERMINAL = 120


def print_json(data: dict[str, Any]) -> None:
    """Write `data` as the one JSON object of this run; numbers that JSON lacks (infinity) become null."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")


def print_tables(tables: Iterable[RenderableType]) -> None:
    """Write tables to stdout, as wide as the terminal, or 120 columns into a file or pipe."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    for table in tables:
        console.print(table)
    sys.stdout.flush()


@contextlib.contextmanager
def stdout_reserved() -> Iterator[None]:
    """Send to stderr what libraries print meanwhile, so that stdout holds the JSON object and nothing else."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
