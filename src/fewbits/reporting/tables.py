"""The tables a person reads, drawn from the same data as the JSON: preview, result, comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fewbits import activations
from fewbits.reporting import figures
from fewbits.reporting.calibration_tables import calibration_tables
from fewbits.reporting.graph_tables import graph_tables
from fewbits.reporting.hub_tables import destination, pushed_tables
from fewbits.reporting.measures import MEASURES
from fewbits.reporting.record import CalibrationPlan, FormatSummary, Preview, Record, override_origin
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.evaluation.compare import Comparison
    from fewbits.evaluation.metrics import Estimate

MOST_FALLBACKS = 20
WORST = 5


def preview_tables(preview: Preview, *, choices: Sequence[str] = ()) -> list[RenderableType]:
    """What will be done, before any weight is read."""
    facts = [
        ("source", preview.source),
        ("output", preview.output),
        *_parts(preview),
        ("architecture", f"{preview.architecture}, {figures.count(preview.parameters)} parameters"),
        ("size", f"{figures.size(preview.bytes_in)} -> {figures.size(preview.bytes_out)}"),
        ("bits per weight", f"{preview.bits_per_weight:.3f}"),
        (f"not {preview.nominal_format}", f"{figures.percent(preview.share_not_nominal)} of the parameters"),
        (
            "estimated",
            f"{figures.duration(preview.seconds_estimated)}, {figures.size(preview.memory_estimated)} memory",
        ),
    ]
    facts += _changes(preview)
    if preview.hub is not None:
        facts.insert(1, ("commit", f"{preview.hub.commit} of {preview.hub.repository}"))
    if preview.push is not None:
        facts.append(("then uploads", f"{', '.join(preview.push.files)} to {destination(preview.push)}"))
    if choices:
        facts.append(("by default", ", ".join(choices)))
    return [
        facts_table(f"Preview: {preview.recipe}", facts),
        Text(),
        _format_table(preview.formats()),
        *_fallback_lines(preview),
        *_notes((*preview.notes, *(preview.push.notes if preview.push else ()))),
    ]


def record_tables(record: Record) -> list[RenderableType]:
    """What was done and what it cost."""
    preview = record.preview
    facts = [
        ("output", preview.output),
        *_parts(preview),
        ("sha256", record.output_sha256),
        ("card", record.card),
        ("size", _shrinkage(preview.bytes_in, preview.bytes_out)),
        ("bits per weight", f"{preview.bits_per_weight:.3f}"),
        (f"not {preview.nominal_format}", f"{figures.percent(preview.share_not_nominal)} of the parameters"),
        ("fallbacks", str(len(preview.fallbacks)) if preview.fallbacks else "none"),
        ("verified", _verification(record)),
        (
            "time",
            f"{figures.duration(record.seconds)}, of which verifying {figures.duration(record.seconds_verifying)}",
        ),
        ("peak memory", f"{figures.size(record.peak_memory)} (mapped files not counted)"),
        ("worked with", f"{record.threads} threads, {record.isa}"),
        *_inputs(preview),
    ]
    return [
        Text(),
        _format_table(record.formats(), errors=True),
        *_worst_tensors(record),
        *calibration_tables(record),
        *graph_tables(record),
        facts_table("Result", facts),
        *(pushed_tables(record.pushed) if record.pushed else ()),
    ]


def _parts(preview: Preview) -> list[tuple[str, str]]:
    """The files of an output that is split."""
    names = preview.parts
    if not names:
        return []
    return [("in parts", names[0] if len(names) == 1 else f"{len(names)}: {names[0]} to {names[-1]}")]


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """What quantization cost on a text."""
    c = comparison
    table = simple_table("Comparison", ("", "left"), ("original", "right"), ("quantized", "right"), ("change", "right"))
    table.add_row(
        "perplexity",
        f"{c.perplexity_original:.4f}",
        f"{c.perplexity_quantized:.4f}",
        f"x {_interval(c.perplexity_ratio, '.4f')}",
    )
    change = f"{figures.percent(c.bytes_quantized / c.bytes_original)}" if c.bytes_original else ""
    table.add_row("size", figures.size(c.bytes_original), figures.size(c.bytes_quantized), change)
    facts = [
        ("KL divergence", f"{_interval(c.kl_divergence, '.5f')} nats per token"),
        ("", f"median {c.kl_divergence_median:.5f}, 99% {c.kl_divergence_p99:.5f}, largest {c.kl_divergence_max:.4f}"),
        ("top-1 agreement", _interval(c.top1, ".2%")),
        ("bits per weight", f"{c.bits_per_weight:.3f}"),
        ("text", f"{c.text}, {c.tokens} tokens scored in {c.windows} windows of {c.context}"),
        ("protocol", c.protocol),
        ("original", c.original),
        ("quantized", c.quantized),
    ]
    return [table, facts_table("", facts), *_notes(c.notes)]


def _format_table(formats: Iterable[FormatSummary], *, errors: bool = False) -> Table:
    columns = [
        ("format", "left"),
        ("tensors", "right"),
        ("parameters", "right"),
        ("bytes in", "right"),
        ("bytes out", "right"),
        ("bits/weight", "right"),
    ]
    table = simple_table("Tensors per format", *columns, *([("relative RMS error", "right")] if errors else []))
    for f in formats:
        row = [
            f.format,
            str(f.tensors),
            figures.count(f.parameters),
            figures.size(f.bytes_in),
            figures.size(f.bytes_out),
            f"{f.bits_per_weight:.3f}",
        ]
        table.add_row(*row, *([figures.error(f.relative_rms or 0.0)] if errors else []))
    return table


def _worst_tensors(record: Record) -> list[RenderableType]:
    worst = sorted((t for t in record.tensors if t.relative_rms > 0), key=lambda t: -t.relative_rms)[:WORST]
    if not worst:
        return []
    table = simple_table("Largest errors", ("tensor", "left"), ("format", "left"), ("relative RMS error", "right"))
    for t in worst:
        table.add_row(Text(clean(t.planned.name)), t.planned.format, figures.error(t.relative_rms))
    return [table]


def _changes(preview: Preview) -> list[tuple[str, str]]:
    """What the user changed: recipe, formats of tensors, importance."""
    facts = [("recipe from", preview.recipe_file)] if preview.recipe_file else []
    if preview.overrides:
        chosen = Counter(t.chosen_by for t in preview.tensors)
        counts = [f"{o} ({_count(chosen[override_origin(o)], 'tensor')})" for o in preview.overrides]
        facts.append(("overrides", ", ".join(counts)))
    facts += _inputs(preview)
    facts += _calibration(preview.calibration) if preview.calibration else []
    used = preview.importance
    if used:
        measured = f", measured on {used.chunks} chunks of {used.text or 'a text'}" if used.chunks else ""
        facts.append(("importance", f"{used.file}: {_count(used.tensors, 'tensor')} weighed{measured}"))
    return facts


def _inputs(preview: Preview) -> list[tuple[str, str]]:
    """How inputs are rounded at run time, and what stays in 16 bits."""
    counts = Counter(t.activation for t in preview.tensors if t.activation)
    kinds = [f"{activations.get(name).words}: {_count(n, 'tensor')}" for name, n in counts.items()]
    kept = [t.outliers for t in preview.tensors if t.outliers]
    outliers = [("in 16 bits", f"{_count(sum(kept), 'column')} of {_count(len(kept), 'tensor')}")] if kept else []
    return [*([("activations", ", ".join(kinds))] if kinds else []), *outliers]


def _calibration(plan: CalibrationPlan) -> list[tuple[str, str]]:
    parts = ", ".join(f"{part['name']} {part['windows']}" for part in plan.text["parts"])
    length, measure = plan.text["length"], MEASURES[plan.measure]
    return [
        ("calibration", f"{plan.tokens} tokens: {plan.text['windows']} windows of {length} ({parts})"),
        ("guard", f"{plan.guard_tokens} tokens, looked at after {_count(plan.checkpoints, 'part')} of the layers"),
        ("judged by", f"{measure.name}, {measure.unit}"),
        ("computed in", plan.precision),
    ]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _fallback_lines(preview: Preview) -> list[RenderableType]:
    fallbacks = preview.fallbacks
    if not fallbacks:
        return [Text("Fallbacks: none; every tensor gets the format that the recipe's rules name.")]
    lines: list[RenderableType] = [Text(f"Fallbacks: {len(fallbacks)}", style="bold yellow")]
    lines += [Text(clean(f"  {t.name} -> {t.format}: {t.fallback}")) for t in fallbacks[:MOST_FALLBACKS]]
    if len(fallbacks) > MOST_FALLBACKS:
        lines.append(Text(f"  and {len(fallbacks) - MOST_FALLBACKS} more; --json lists them all"))
    return lines


def _notes(notes: Iterable[str]) -> list[RenderableType]:
    return [Text(clean(f"Note: {note}")) for note in notes]


def _verification(record: Record) -> str:
    if not record.verified:
        return "NO"
    return f"yes: all {len(record.tensors)} tensors were decoded again by independent code and compared with the source"


def _shrinkage(before: int, after: int) -> str:
    ratio = f", {before / after:.2f} times smaller" if after else ""
    return f"{figures.size(before)} -> {figures.size(after)}{ratio}"


def _interval(figure: Estimate, form: str) -> str:
    return f"{figure.value:{form}} (95%: {figure.low:{form}} to {figure.high:{form}})"
