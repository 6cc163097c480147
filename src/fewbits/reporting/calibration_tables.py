"""What calibration did, for a person: how the guard judged, and errors of outputs layer by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from math import sqrt
from typing import TYPE_CHECKING

from rich.text import Text

from fewbits.reporting import figures, strips
from fewbits.reporting.measures import KL, MEASURES
from fewbits.reporting.record import Record
from fewbits.reporting.table_parts import clean, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_LAYER = re.compile(r"\.(\d+)\.")


def calibration_tables(record: Record) -> list[RenderableType]:
    """Nothing where no text was looked at."""
    found = record.calibration
    if found is None:
        return []
    measure = MEASURES[record.preview.calibration.measure if record.preview.calibration else KL.key]
    columns = (
        ("layers", "left"),
        (f"{measure.short} of these codes", "right"),
        ("of plain codes", "right"),
        ("codes", "left"),
    )
    title = f"Guard: {measure.name} on text of another kind, the layers behind in full precision"
    table = simple_table(title, *columns)
    for verdict in found.verdicts:
        layers = f"{verdict['first']} to {verdict['last']}" if verdict["last"] > verdict["first"] else verdict["first"]
        kept = "kept" if verdict["kept"] else "put back"
        solved, plain = (verdict[f"{measure.key}_{kind}"] for kind in ("solved", "plain"))
        table.add_row(str(layers), f"{solved:.5f}", f"{plain:.5f}", kept)
    lines: list[RenderableType] = [table, *_layers(record)]
    lines.append(Text(f"Codes of {found.kept} of {found.tensors} matrices were kept; the others got plain ones."))
    lines += [Text(clean(note)) for note in found.notes]
    if not found.works:
        lines.append(Text("This method does not work on this model: take --method nearest.", style="bold yellow"))
    return lines


def _layers(record: Record) -> list[RenderableType]:
    """A strip with a column per layer: output errors over those of plain codes."""
    layers: dict[int, list[float]] = defaultdict(list)
    for tensor in record.tensors:
        place = _LAYER.search(tensor.planned.name)
        if place and tensor.output_error is not None and tensor.output_error_plain:
            layers[int(place[1])].append((tensor.output_error / tensor.output_error_plain) ** 2)
    if not layers:
        return []
    ratios = [sqrt(sum(each) / len(each)) for _, each in sorted(layers.items())]
    cells = "".join(strips.column(min(ratio, 1.0), 0.0, 1.0) for ratio in ratios)
    low, high = (figures.percent(edge) for edge in (min(ratios), max(ratios)))
    return [Text(f"Output errors by layer, of those of plain codes: {cells} ({low} to {high})")]
