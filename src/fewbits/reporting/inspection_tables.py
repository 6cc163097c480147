"""What is in a file, on the screen: its tensors one by one, then by kind, by format and by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fewbits.reporting import figures, strips
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.inspection import Inspection, LayerTotal
    from fewbits.mixes import Mix

MOST_DIFFERENCES = 5
_WIDEST_CELL = 4
SMALL = 0.001
"""Kinds with a smaller share of the parameters are told together: norms and biases."""


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """What is in a file."""
    i = inspection
    facts = [
        ("file", i.path),
        *([("parts", f"{len(i.files)}: {i.files[0]} to {i.files[-1]}")] if len(i.files) > 1 else []),
        ("kind", f"{i.container}, architecture {i.architecture or 'not stated'}"),
        *([("mix", _mix(i.mix))] if i.mix else []),
        ("size", f"{figures.size(i.file_bytes)}, of which tensors {figures.size(i.bytes)}"),
        ("parameters", figures.count(i.parameters)),
        ("bits per weight", f"{i.bits_per_weight:.3f}"),
    ]
    metadata = [(key, value if isinstance(value, str) else repr(value)) for key, value in i.metadata.items()]
    tables: list[RenderableType] = [_tensors(i)]
    tables += [facts_table("Metadata", metadata), Text()] if metadata else []
    tables += [_kinds(i), _formats(i)]
    tables += [LayerStrip(i.layers), Text()] if i.layers else []
    return [*tables, facts_table("File", facts), *_differences(i.mix)]


def _tensors(inspection: Inspection) -> Table:
    columns = (("shape", "right"), ("format", "left"), ("bytes", "right"), ("bits/weight", "right"))
    more = [*([("inputs", "left")] if any(t.activation for t in inspection.tensors) else [])]
    more += [("in 16 bits", "right")] if any(t.outliers for t in inspection.tensors) else []
    table = simple_table("Tensors", ("name", "left"), *columns, *more)
    for t in inspection.tensors:
        shape = " x ".join(map(str, t.shape)) or "1"
        row = (shape, t.format, figures.size(t.bytes), f"{t.bits_per_weight:.3f}")
        said = {"inputs": t.activation or "", "in 16 bits": f"{t.outliers} columns" if t.outliers else ""}
        table.add_row(Text(clean(t.name)), *row, *(said[name] for name, _ in more))
    return table


def _kinds(inspection: Inspection) -> Table:
    columns = (("tensors", "right"), ("parameters", "right"), ("bits/weight", "right"), ("formats", "left"))
    table = simple_table("Kinds of tensors", ("kind", "left"), *columns)
    shown = [kind for kind in inspection.kinds if kind.parameters >= SMALL * inspection.parameters]
    low, high = (end((kind.bits_per_weight for kind in shown), default=0.0) for end in (min, max))
    for kind in shown:
        several = len(kind.formats) > 1
        formats = ", ".join(f"{name} x {count}" if several else name for name, count in kind.formats.items())
        bits = Text(f"{kind.bits_per_weight:.3f}", style=strips.heat(kind.bits_per_weight, low, high))
        table.add_row(Text(clean(kind.kind)), str(kind.tensors), figures.count(kind.parameters), bits, formats)
    rest = inspection.kinds[len(shown) :]
    if rest:
        parameters, stored = sum(kind.parameters for kind in rest), sum(kind.bytes for kind in rest)
        names = ", ".join(dict.fromkeys(name for kind in rest for name in kind.formats))
        bits = Text(f"{8 * stored / parameters:.3f}" if parameters else "")
        table.add_row(
            f"{len(rest)} small ones", str(sum(k.tensors for k in rest)), figures.count(parameters), bits, names
        )
    return table


def _formats(inspection: Inspection) -> Table:
    columns = (("tensors", "right"), ("parameters", "right"), ("share", "right"), ("bytes", "right"))
    table = simple_table("Formats", ("format", "left"), *columns)
    for f in inspection.formats:
        share = figures.percent(f.share)
        table.add_row(f.format, str(f.tensors), figures.count(f.parameters), share, figures.size(f.bytes))
    return table


class LayerStrip:
    """Bits per weight of each layer: in a terminal a strip whose height and colour tell, elsewhere the numbers."""

    def __init__(self, layers: Sequence[LayerTotal]) -> None:
        self._layers = layers

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many layers to a line as there is room for."""
        values = [layer.bits_per_weight for layer in self._layers]
        low, high = min(values), max(values)
        yield Text("Bits per weight of the layers", style="bold")
        label = len(str(self._layers[-1].layer)) + 1
        if not console.is_terminal:
            yield from self._numbers(options.max_width, label)
            return
        room = max(1, options.max_width - 2 * label)
        wide = min(_WIDEST_CELL, max(1, room // len(values)))
        per_line = max(1, room // wide)
        for start in range(0, len(values), per_line):
            part = self._layers[start : start + per_line]
            line = Text(no_wrap=True, overflow="crop").append(f"{part[0].layer:>{label - 1}} ", style="dim")
            for layer in part:
                bits = layer.bits_per_weight
                line.append(strips.column(bits, low, high) * wide, style=strips.heat(bits, low, high))
            yield line.append(f" {part[-1].layer}", style="dim")
        yield self._legend(low, high)

    def _legend(self, low: float, high: float) -> Text:
        """What the lowest and the highest column mean."""
        if low == high:
            return Text(f"all {low:.3f}", style="dim")
        return Text.assemble(
            (strips.column(low, low, high), strips.heat(low, low, high)),
            f" {low:.3f}  ",
            (strips.column(high, low, high), strips.heat(high, low, high)),
            f" {high:.3f}",
        )

    def _numbers(self, width: int, label: int) -> RenderResult:
        per_line = max(1, (width + 2) // (label + 8))
        for start in range(0, len(self._layers), per_line):
            part = self._layers[start : start + per_line]
            cells = (f"{layer.layer:>{label - 1}} {layer.bits_per_weight:6.3f}" for layer in part)
            yield Text("  ".join(cells), no_wrap=True, overflow="crop")


def _mix(mix: Mix) -> str:
    if mix.nearest is None:
        if mix.stated in {None, mix.name}:
            by = "as the file says, and" if mix.stated else "the file does not say so, but"
            return f"{mix.name}: {by} every tensor is in the format that this recipe chooses"
        return f"{mix.name}: every tensor is in the format that this recipe chooses, though the file says {mix.stated}"
    said = f"the file says {mix.stated}" if mix.stated else "the file does not say which"
    count = len(mix.differences)
    what = "1 tensor differs" if count == 1 else f"{count} tensors differ"
    return f"{mix.name}: {said}, and {what} from {mix.nearest}"


def _differences(mix: Mix | None) -> list[RenderableType]:
    if mix is None or not mix.differences:
        return []
    lines: list[RenderableType] = [
        Text(clean(f"  {d.tensor} is {d.format}; {mix.nearest} has {d.expected}"))
        for d in mix.differences[:MOST_DIFFERENCES]
    ]
    more = len(mix.differences) - MOST_DIFFERENCES
    return [*lines, Text(f"  and {more} more; --json lists them all")] if more > 0 else lines
