"""The tables of a training that a person reads: before it, and after it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.text import Text

from fewbits.reporting import figures
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.reporting.training_record import TrainingPreview, TrainingRecord

LINES = 8
"""Of the table of losses."""


def training_preview_tables(preview: TrainingPreview, *, choices: Sequence[str] = ()) -> list[RenderableType]:
    """What a training will do."""
    data, settings = preview.data, preview.settings
    facts = [
        ("model", preview.source),
        ("output", preview.output),
        ("architecture", f"{preview.architecture}, {figures.count(preview.parameters)} parameters"),
        ("matrices", ", ".join(f"{count} {name}" for name, count in preview.formats.items()) or "none packed"),
        ("learned", f"{figures.count(preview.trained)} numbers ({figures.percent(_share(preview))} of the model's)"),
        *((name, _plain(value)) for name, value in preview.method.items() if value not in (None, [], {})),
        ("data", f"{data['file']}: {data['samples']} samples ({_kind(data)})"),
        ("windows", f"{data['windows']} of at most {data['length']} tokens, {data['learned']} tokens to learn"),
        ("held out", f"{data['held_windows']} windows, {data['held_tokens']} tokens{_of_file(data)}"),
        ("steps", _steps(preview)),
        ("learning rate", f"{settings['learning_rate']:g}, {settings['schedule']}"),
        ("memory", f"about {figures.size(preview.memory_estimated)} ({_parts(preview)})"),
    ]
    if preview.measured is not None:
        facts.append(("measured", _measured(preview)))
    if choices:
        facts.append(("by default", ", ".join(choices)))
    return [facts_table(f"Preview: {preview.verb}", facts), *_notes(preview.notes)]


def training_tables(record: TrainingRecord) -> list[RenderableType]:
    """What a training did."""
    history = record.history
    facts = [
        *((what, where) for what, where in record.files.items()),
        ("steps", f"{history.steps} of {history.total}" + ("" if record.complete else "; the state is kept")),
        ("loss held out", _before_after(record)),
        ("time", f"{figures.duration(history.seconds)}, {history.tokens_per_second:.0f} tokens/s"),
        ("peak memory", f"{figures.size(history.peak_memory)} (mapped files not counted)"),
    ]
    if history.resumed:
        facts.append(("resumed", "after step " + ", ".join(map(str, history.resumed))))
    return [Text(), _losses(record), facts_table("Result", facts), *_notes(tuple(history.notes))]


def _share(preview: TrainingPreview) -> float:
    return preview.trained / preview.parameters if preview.parameters else 0.0


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _kind(data: dict[str, object]) -> str:
    fields = data["fields"]
    assert isinstance(fields, list)
    return " and ".join(map(str, fields)) if fields else "a text"


def _of_file(data: dict[str, object]) -> str:
    return f" of {data['validation']}" if data["validation"] else ""


def _steps(preview: TrainingPreview) -> str:
    settings, batch = preview.settings, preview.data["batch"]
    done = f"; {preview.resumed_at} are done" if preview.resumed_at is not None else ""
    return f"{preview.steps} of {settings['accumulate']} x {batch} windows{done}"


def _parts(preview: TrainingPreview) -> str:
    return ", ".join(f"{name} {figures.size(bytes_)}" for name, bytes_ in preview.memory.items())


def _measured(preview: TrainingPreview) -> str:
    found, seconds = preview.measured, preview.seconds_estimated
    assert found is not None
    assert seconds is not None
    return (
        f"a step takes {figures.duration(found.seconds)} ({found.tokens_per_second:.0f} tokens/s), all of them about "
        f"{figures.duration(seconds)}; peak memory {figures.size(found.peak_memory)}"
    )


def _before_after(record: TrainingRecord) -> str:
    if record.loss_before is None or record.loss_after is None:
        return "not measured: nothing was held out"
    change = f"{record.loss_before:.5f} -> {record.loss_after:.5f} nats per token"
    return f"{change} ({record.preview.measure})"


def _losses(record: TrainingRecord) -> RenderableType:
    """Mean losses of a few stretches of all steps."""
    losses = record.history.losses
    table = simple_table("Losses", ("steps", "right"), ("mean loss", "right"), ("learning rate", "right"))
    edges = sorted({len(losses) * n // LINES for n in range(LINES + 1)})
    for first, last in pairwise(edges):
        mean = sum(losses[first:last]) / (last - first)
        table.add_row(f"{first + 1} to {last}", f"{mean:.4f}", f"{record.history.rates[last - 1]:.2e}")
    return table


def _notes(notes: Sequence[str]) -> list[RenderableType]:
    return [Text(clean(f"Note: {note}")) for note in notes]
