"""`fewbits bench`: the command over `fewbits.bench`."""

from __future__ import annotations

from typing import Any

import click

COUNT = click.IntRange(min=0)


@click.command("bench")
@click.argument("model")
@click.option("--prompt", type=COUNT, default=256, show_default=True, metavar="N", help="Tokens of a prompt; 0: none.")
@click.option("--generate", type=COUNT, default=32, show_default=True, metavar="N", help="Tokens one by one; 0: none.")
@click.option("--depth", type=COUNT, default=0, show_default=True, metavar="N", help="Tokens that stand before both.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Measured turns."
)
@click.option("--warm-up/--no-warm-up", default=True, show_default=True, help="Take a turn before, unmeasured.")
@click.option(
    "--cache",
    type=click.Choice(["F32", "F16", "Q8_0", "Q4_0"]),
    help="Format of cached keys and values  [default: F16, with --exact F32]",
)
@click.option("--exact", is_flag=True, help="Float activations: slower, nothing is rounded.")
@click.option("--mmap", is_flag=True, help="Leave weights in the file's pages instead of copying them.")
@click.option("--limit/--no-limit", default=True, show_default=True, help="Measure what memory allows at most.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Worker threads  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
def command(model: str, as_json: bool, **options: Any) -> None:
    """Measure how fast MODEL runs here: tokens per second, memory, loading, energy, and what memory allows at most.

    MODEL is a GGUF file, a model directory, or a hub id. Tokens are random, and each is evaluated but none chosen.
    Energy is what the processor counts itself (RAPL); where it cannot be read, the reason is said in its place.
    """
    from fewbits.cli.output import print_json, print_tables, stdout_reserved
    from fewbits.cli.progress import PlainLines
    from fewbits.speed.bench import bench

    report = PlainLines()  # also in a terminal: a bar would be drawn while the clock runs
    with stdout_reserved():
        result = bench(model, progress=report, **options)
    if as_json:
        print_json(result.to_json())
    else:
        from fewbits.reporting.speed_tables import speed_tables

        print_tables(speed_tables(result))
