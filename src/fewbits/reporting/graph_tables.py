"""What became of an ONNX graph's values, for a person: outputs beside the original's, and what stayed in floats."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import TYPE_CHECKING

from fewbits.reporting import figures
from fewbits.reporting.graph_record import GraphRounding
from fewbits.reporting.record import Record
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST = 8


def graph_tables(record: Record) -> list[RenderableType]:
    """Nothing where no graph's values were rounded."""
    found = record.graph
    if found is None:
        return []
    tables: list[RenderableType] = [facts_table("Graph", _facts(found))]
    if found.smoothed:
        heads = (("value", "left"), ("power", "right"), ("error before", "right"), ("after", "right"))
        table = simple_table("Divided column by column", *heads)
        for value in found.smoothed[:MOST]:
            costs = (figures.error(sqrt(each)) for each in (value.error_before, value.error_after))
            table.add_row(clean(value.value), f"{value.power:.2f}", *costs)
        if len(found.smoothed) > MOST:
            table.add_row(f"and {len(found.smoothed) - MOST} more", "", "", "")
        tables.append(table)
    if found.floats:
        columns = (("in floats", "left"), ("operator", "left"), ("why", "left"))
        table = simple_table("Products that stayed", *columns)
        for each in found.floats[:MOST]:
            table.add_row(clean(each.output), each.operator, clean(each.why))
        if len(found.floats) > MOST:
            table.add_row(f"and {len(found.floats) - MOST} more", "", "")
        tables.append(table)
    if found.outputs:
        table = simple_table("Outputs", ("output", "left"), ("mean cosine", "right"), ("relative error", "right"))
        for output in found.outputs[:MOST]:
            table.add_row(clean(output.name), f"{output.cosine:.6f}", figures.error(output.relative_error))
        tables.append(table)
    return tables


def _facts(found: GraphRounding) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(p.operator for p in found.products).items())
    facts = [("whole numbers", kinds or "none")]
    if found.observer:
        seen = f"{found.samples} samples, judged on {found.samples_held_out} more"
        facts.append(("ranges", f"{len(found.values)} values by {found.observer}, {seen}"))
    others = ", ".join(f"{count} {name}" for name, count in list(found.float_operators.items())[:MOST])
    return [*facts, ("in floats", others or "nothing")]
