"""`fewbits convert`: the command over `fewbits.convert`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fewbits.reporting.record import Preview


@click.command("convert")
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--dialect", metavar="NAME", help="How a model directory lays out matrices  [default: fewbits]")
@click.option("--like", metavar="DIRECTORY", help="The model directory that a GGUF file was made from.")
@click.option("--split-size", metavar="SIZE", help="Write weights in files of at most this size: 2G, 500M.")
@click.option("--dry-run", is_flag=True, help="Print the preview and stop; nothing is written.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Worker threads  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something goes wrong.")
def command(source: str, output: Path, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write SOURCE (a model directory in any dialect, a hub id, a GGUF or an ONNX file) as OUTPUT, and round nothing.

    OUTPUT is a GGUF file, or without an ending a model directory in the dialect of other programs: gptq, awq,
    compressed-tensors, bitsandbytes, fp8, mlx, hqq, torchao; of an ONNX file it is one: matmulnbits or qdq. What was
    written is read again and compared number by number.
    """
    from fewbits.cli.output import print_json, print_tables, stdout_reserved
    from fewbits.cli.progress import progress_report
    from fewbits.conversion.convert import convert
    from fewbits.reporting.record import Preview, preview_to_json
    from fewbits.reporting.tables import preview_tables, record_tables

    def show(preview: Preview) -> None:
        if not (as_json or quiet):
            print_tables(preview_tables(preview))

    hidden = quiet or options["dry_run"]
    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(stdout_reserved())
        report = stack.enter_context(progress_report("convert", "verify", quiet=hidden))
        result = convert(source, output, on_preview=show, progress=report, **options)
    if as_json:
        print_json(preview_to_json(result) if isinstance(result, Preview) else result.to_json())
    elif not quiet and not isinstance(result, Preview):
        print_tables(record_tables(result))
