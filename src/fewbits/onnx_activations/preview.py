"""What will be done to a graph, before it is."""

from __future__ import annotations

from collections import defaultdict

from fewbits.memory import resident_memory
from fewbits.onnx_activations.asking import RECIPE
from fewbits.onnx_activations.numbers import ROWS
from fewbits.onnx_activations.source import Source
from fewbits.onnx_activations.way import Planned, RoundingWay
from fewbits.reporting.graph_record import FloatNode
from fewbits.reporting.record import Preview
from fewbits.request import Request

MOST_NAMES = 3


def preview_of(request: Request, source: Source, way: RoundingWay, planned: Planned, size: int) -> Preview:
    """The preview of `planned`, which takes `size` bytes."""
    carried = sum(source.file.stored(each).bytes for each in source.file.initializers.values())
    return Preview(
        source=request.source,
        output=str(request.output),
        recipe=RECIPE,
        nominal_format=ROWS,
        architecture="onnx",
        tensors=planned.tensors,
        notes=(*source.notes, *planned.notes, *float_notes(planned.floats)),
        bytes_in=carried,
        bytes_out=size,
        seconds_estimated=planned.seconds,
        memory_estimated=resident_memory() + planned.memory,
        overrides=tuple(str(each) for each in _texts(request)),
    )


def _texts(request: Request) -> list[str]:
    given = request.tensors
    return [f"{p}={f}" for p, f in given.items()] if hasattr(given, "items") else list(given)


def float_notes(floats: tuple[FloatNode, ...]) -> list[str]:
    """One sentence per reason for which nodes stay in floats."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for each in floats:
        reasons[each.why].append(f"{each.operator} {each.output}")
    notes = []
    for why, names in reasons.items():
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        notes.append(f"In floats as before, as {why}: {', '.join(names[:MOST_NAMES])}{more}.")
    return notes
