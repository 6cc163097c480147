"""What every table is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def simple_table(title: str, *columns: tuple[str, Any]) -> Table:
    """A table of (name, justification) columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")
    return table


def facts_table(title: str, facts: Iterable[tuple[str, str]]) -> Table:
    """A name and a value per line."""
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(clean(name)), Text(clean(value)))
    return table


def clean(text: str) -> str:
    """`text` with control characters visible: a name from a file must not drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
