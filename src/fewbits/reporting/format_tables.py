"""The number formats on the screen: all of them by family, or one with the drawing of its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fewbits.formats.guide import families
from fewbits.reporting.table_parts import facts_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.formats.description import Description

WIDEST_DRAWING = 100


def family_tables(described: Sequence[Description]) -> list[RenderableType]:
    """A line per format, under the sentences of its family and of the formats that are used alike."""
    names = max(len(d.name) for d in described)
    bits = max(len(_exact(d)) for d in described)
    parts: list[RenderableType] = []
    for family in families().values():
        members = [d for d in described if d.family == family]
        if members:
            parts += [Text(family.title, style="bold"), Text(family.about, style="dim"), Text()]
        for entry in dict.fromkeys(d.entry for d in members):
            alike = [d for d in members if d.entry == entry]
            note = Text.assemble((", ".join(alike[0].readers), "italic"), f". {alike[0].when}", style="dim")
            parts += [_rows(alike, names, bits), Padding(note, (0, 0, 1, 2))]
    return [*parts, Text("The numbers are bits per weight, scales included. `fewbits formats NAME` draws the bytes.")]


def _rows(members: Sequence[Description], names: int, bits: int) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", min_width=names, overflow="fold")
    table.add_column(justify="right", min_width=bits, no_wrap=True)
    table.add_column(style="dim", min_width=8, no_wrap=True)
    table.add_column(style="green", overflow="fold")
    for d in members:
        span = f"span {d.span or 'all'}" if d.span != 1 else ""
        table.add_row(d.name, _exact(d), span, Text(d.equation))  # Text: `scale[g]` is no markup
    return table


def _exact(d: Description) -> str:
    return f"{d.bits_per_weight:.7g}"


def format_details(described: Sequence[Description]) -> list[RenderableType]:
    """Everything about each format, its bytes drawn as wide as the terminal."""
    return [part for d in described for part in _details(d)]


def _details(d: Description) -> list[RenderableType]:
    facts = [
        ("family", d.family.title),
        ("equation", d.equation),
        ("bits per weight", _bits(d)),
        ("largest", f"{d.largest:.6g}"),
        ("error", f"at most {d.error_bound:.3g} of the span's largest magnitude, or {d.error_floor:.2g}"),
        ("read by", ", ".join(d.readers)),
        ("when to use", d.when),
        ("defined by", d.source),
    ]
    return [facts_table(d.name, facts), Text(), Drawing(d), Text()]


def _bits(d: Description) -> str:
    if d.span_bytes is None:
        return f"{d.bits_per_weight:.5g} in a matrix of 4096 x 4096"
    return f"{d.bits_per_weight:.10g}: {d.span_bytes} bytes for " + (
        "one column" if d.span == 1 else f"{d.span} columns"
    )


class Drawing:
    """The bytes of a span, as wide as there is room."""

    def __init__(self, described: Description) -> None:
        self._described = described

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the drawing; cut, never folded, where the terminal is narrower than its boxes."""
        width = min(options.max_width, WIDEST_DRAWING)
        yield Text(self._described.drawing(width), no_wrap=True, overflow="crop")
