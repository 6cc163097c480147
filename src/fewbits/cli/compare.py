"""`fewbits compare`: the command over `fewbits.compare`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewbits.evaluation.compare import Comparison
    from fewbits.evaluation.compare_encoders import EncoderComparison


@click.command("compare")
@click.argument("original")
@click.argument("quantized")
@click.option("--text", required=True, metavar="FILE", help="UTF-8 text to measure on.")
@click.option(
    "--context", type=click.IntRange(min=2), default=512, show_default=True, metavar="N", help="Tokens per window."
)
@click.option("--max-tokens", type=click.IntRange(min=2), metavar="N", help="Read only the first N tokens of the text.")
@click.option("--architecture", metavar="FILE", help="Facts of an architecture of your own, as TOML.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Worker threads  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
def command(
    original: str,
    quantized: str,
    text: str,
    context: int,
    max_tokens: int | None,
    architecture: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure what quantization cost: perplexity, KL divergence and top-1 agreement of QUANTIZED against ORIGINAL.

    Of encoders (BERT), which predict nothing, cosines of embeddings and of states. Both are Hugging Face directories,
    hub ids of such, or GGUF files, and both are evaluated in float32 on the same tokens of the text.
    """
    from fewbits.cli.output import print_json, print_tables, stdout_reserved
    from fewbits.cli.progress import progress_report
    from fewbits.evaluation.compare import compare

    with contextlib.ExitStack() as stack:
        stack.enter_context(stdout_reserved())
        report = stack.enter_context(progress_report("compare"))
        report("compare", 0, 0)  # loading the models takes seconds: show that something happens
        result = compare(
            original,
            quantized,
            text=text,
            context=context,
            max_tokens=max_tokens,
            architecture=architecture,
            threads=threads,
            progress=lambda done, total: report("compare", done, total),
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(_tables(result))


def _tables(result: Comparison | EncoderComparison) -> list[RenderableType]:
    from fewbits.evaluation.compare import Comparison
    from fewbits.reporting.encoder_tables import encoder_comparison_tables
    from fewbits.reporting.tables import comparison_tables

    return comparison_tables(result) if isinstance(result, Comparison) else encoder_comparison_tables(result)
