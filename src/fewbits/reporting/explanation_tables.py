"""Numbers and tensors in several formats, on the screen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fewbits.reporting import figures, strips
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.explanation.numbers import NumbersExplained, StoredNumber
    from fewbits.explanation.tensor import TensorExplained

_COLOURS = {"sign": "red", "exponent": "yellow", "mantissa": "cyan", "code": "green"}
_HEIGHT = 6
_WIDEST_BAR = 24
_LABEL = 10


def number_tables(explained: NumbersExplained) -> list[RenderableType]:
    """A table per number, then the scales and the bytes of each format."""
    tables: list[RenderableType] = []
    for n, number in enumerate(explained.numbers):
        right = ("comes back", "error", "relative")
        table = _table(repr(number), "format", "stored bits", *right, right=right)
        table.columns[1].no_wrap = False
        for each in explained.formats:
            stored = each.stored[n]
            table.add_row(each.format, _bits(stored), f"{stored.value:.8g}", _signed(stored.error), _relative(stored))
        tables.append(table)
    used = dict.fromkeys(name for each in explained.formats for name, _ in each.stored[0].bits)
    legend = Text(", ").join(Text(name, style=_COLOURS.get(name, "")) for name in used)
    return [*tables, Text("Bits: ").append_text(legend), Text(), _bytes(explained), *_how(explained)]


def _bits(stored: StoredNumber) -> Text:
    pieces = [(digits, _COLOURS.get(name, "")) for name, digits in stored.bits]
    text = Text(" ").join(Text(digits, style=colour) for digits, colour in pieces)
    if [name for name, _ in stored.bits] == ["code"]:
        text.append(f"  code {stored.code}", style="dim")
    return text


def _signed(error: float) -> str:
    return "0" if error == 0 else f"{error:+.2e}"


def _relative(stored: StoredNumber) -> str:
    error = abs(stored.relative_error)
    return "infinite" if math.isinf(error) else figures.error(error)


def _bytes(explained: NumbersExplained) -> Table:
    """Bytes of the row that was stored, and what the codes mean under its scales."""
    table = _table(
        "Bytes and scales", "format", "bits/weight", "bytes", "meaning of a code", right=("bits/weight", "bytes")
    )
    for each in explained.formats:
        scales = ", ".join(f"{name} = {value:.5g}" for name, value in each.stored[0].parameters)
        meaning = Text(each.equation).append(f"\n{scales}" if scales else "", style="dim")
        table.add_row(each.format, f"{each.bits_per_weight:.10g}", f"{each.bytes} for {each.columns}", meaning)
    return table


def _how(explained: NumbersExplained) -> list[RenderableType]:
    """What was done to make rows of the numbers, once for all formats with which the same was done."""
    done: dict[str, list[str]] = {}
    for each in explained.formats:
        done.setdefault(each.how, []).append(each.format)
    lines = [Text(f"{', '.join(names)}: {how}.") for how, names in done.items()]
    if any("repeated" in how for how in done):
        caution = (
            "So few different numbers are easy for a group to fit. In a model they share their scale with their "
            "neighbours: see `fewbits explain --tensor FILE:NAME`."
        )
        lines.append(Text(caution, style="dim"))
    return list(lines)


def tensor_tables(explained: TensorExplained, picture: str | None = None) -> list[RenderableType]:
    """Histograms before and after on one axis, then the error of each format."""
    e = explained
    shape = " x ".join(map(str, e.shape)) or "1"
    facts = [
        ("file", e.file),
        ("tensor", f"{e.tensor}, {shape}, stored as {e.stored_as}"),
        ("numbers", f"{e.least:.4g} to {e.most:.4g}, mean {e.mean:.3g}, root mean square {e.rms:.4g}"),
        *([("sampled", e.sampled)] if e.sampled else []),
        *([("picture", picture)] if picture else []),
    ]
    notes = [Text(clean(f"Left out: {name}: {why}")) for name, why in e.left_out]
    return [facts_table("", facts), Text(), Histograms(e), Text(), _errors(e), *notes]


class Histograms:
    """The original as a mountain, what comes back from each format as a line below, on the same axis."""

    def __init__(self, explained: TensorExplained) -> None:
        self._explained = explained

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many columns as the terminal has room for."""
        e = self._explained
        label = max(_LABEL, *(len(f.format) + 2 for f in e.formats))
        cells = strips.fitting(len(e.histogram), max(1, options.max_width - label))
        margin = " " * label
        for n, line in enumerate(strips.columns(e.histogram, cells, _HEIGHT)):
            yield Text(f"{'original':<{label}}" if n == _HEIGHT - 1 else margin, no_wrap=True).append(
                line, style="blue"
            )
        yield Text(margin + _axis(e.low, e.high, cells), style="dim", no_wrap=True, overflow="crop")
        for each in e.formats:
            yield Text(f"{each.format:<{label}}", no_wrap=True).append(
                strips.columns(each.histogram, cells)[0], style="green"
            )
        if e.beyond:
            yield Text(f"{margin}{figures.percent(e.beyond / e.numbers_seen)} lie beyond", style="dim")


def _axis(low: float, high: float, cells: int) -> str:
    """The ends of an axis and its zero, each at its place.

    >>> _axis(-1, 1, 21)
    '-1        0         1'
    """
    left, right = f"{low:.3g}", f"{high:.3g}"
    line = left + " " * max(1, cells - len(left) - len(right)) + right
    zero = int(cells * -low / (high - low))
    return f"{line[:zero]}0{line[zero + 1 :]}" if len(left) < zero < cells - len(right) - 1 else line


class Bar:
    """A bar that takes the room that its column has, coloured by its length."""

    def __init__(self, share: float) -> None:
        self._share = share

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bar in eighths of a cell."""
        cells = min(options.max_width, _WIDEST_BAR)
        yield Text(strips.bar(self._share, cells), style=strips.heat(self._share, 0, 1), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From a few cells to the widest bar."""
        return Measurement(4, _WIDEST_BAR)


def _errors(e: TensorExplained) -> Table:
    columns = ("format", "bits/weight", "bytes", "error", "", "largest")
    table = _table("Relative RMS error, and the largest", *columns, right=("bits/weight", "bytes", "error", "largest"))
    worst = max(each.relative_rms for each in e.formats)
    for each in e.formats:
        share = each.relative_rms / worst if worst and math.isfinite(worst) else 0.0
        error, largest = figures.error(each.relative_rms), f"{each.largest_error:.3g}"
        bits, size = f"{each.bits_per_weight:.6g}", figures.size(each.bytes)
        table.add_row(each.format, bits, size, error, Bar(share), largest)
    return table


def _table(title: str, *columns: str, right: Iterable[str]) -> Table:
    right = set(right)
    table = simple_table(title, *((name, "right" if name in right else "left") for name in columns))
    table.padding = (0, 0, 0, 1)  # 80 columns hold the bits of a binary32 number and what comes back
    for column in table.columns[:2]:
        column.no_wrap = True
    return table
