"""What quantization cost an encoder, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from fewbits.evaluation.compare_encoders import EncoderComparison
from fewbits.evaluation.metrics import Estimate
from fewbits.reporting import figures
from fewbits.reporting.table_parts import clean, facts_table, simple_table

if TYPE_CHECKING:
    from rich.console import RenderableType


def encoder_comparison_tables(comparison: EncoderComparison) -> list[RenderableType]:
    """Angles between states and between embeddings, and sizes."""
    c = comparison
    columns = (("", "left"), ("mean", "right"), ("95%", "right"), ("lowest 1%", "right"), ("lowest", "right"))
    table = simple_table("Cosine of quantized and original", *columns)
    for name, found, low, least in (
        ("embeddings of windows", c.embedding_cosine, c.embedding_cosine_p1, c.embedding_cosine_min),
        ("states of tokens", c.token_cosine, c.token_cosine_p1, c.token_cosine_min),
    ):
        table.add_row(name, f"{found.value:.6f}", _between(found, ".6f"), f"{low:.6f}", f"{least:.6f}")
    change = f", {figures.percent(c.bytes_quantized / c.bytes_original)}" if c.bytes_original else ""
    facts = [
        (
            "state error",
            f"{c.state_error.value:.6f} (95%: {_between(c.state_error, '.6f')}), squared, of the state's own",
        ),
        ("nearest window", f"the same for {c.nearest.value:.2%} (95%: {_between(c.nearest, '.2%')}) of the windows"),
        ("size", f"{figures.size(c.bytes_original)} -> {figures.size(c.bytes_quantized)}{change}"),
        ("bits per weight", f"{c.bits_per_weight:.3f}"),
        ("pooling", c.pooling),
        ("text", f"{c.text}, {c.tokens} tokens in {c.windows} windows of {c.context}"),
        ("protocol", c.protocol),
        ("original", c.original),
        ("quantized", c.quantized),
    ]
    return [table, facts_table("", facts), *(Text(clean(f"Note: {note}")) for note in c.notes)]


def _between(found: Estimate, form: str) -> str:
    return f"{found.low:{form}} to {found.high:{form}}"
