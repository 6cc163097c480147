"""`fewbits quantize`: the command over `fewbits.quantize`."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fewbits.reporting.record import Preview, Record


@click.command("quantize")
@click.argument("source")
@click.option(
    "-o", "--output", required=True, metavar="OUT.gguf", type=click.Path(path_type=Path), help="File to write."
)
@click.option("--to", default="Q4_K_M", show_default=True, metavar="RECIPE", help="A recipe's name or TOML file.")
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="PATTERN=FORMAT",
    help="Give these tensors another format; repeatable.",
)
@click.option("--importance", metavar="FILE", help="Weigh errors by what llama-imatrix measured.")
@click.option("--method", metavar="NAME", help="How codes are chosen  [default: gptq_search with text, else nearest]")
@click.option("--calibration", multiple=True, metavar="FILE", help="Text to choose codes by; of ONNX inputs, as .npz.")
@click.option("--observer", metavar="NAME", help="How ranges of an ONNX graph's values are chosen  [default: minmax]")
@click.option("--guard", metavar="FILE", help="Text to judge codes by  [default: a text of our own]")
@click.option("--target-text", multiple=True, metavar="FILE", help="Text to come: how unlike it is; one per group.")
@click.option("--write-importance", metavar="FILE", help="Keep what was measured, for llama-quantize too.")
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    metavar="N",
    help="Windows of text to read.",
)
@click.option(
    "--sequence-length",
    type=click.IntRange(min=8),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens of a window.",
)
@click.option("--dialect", metavar="NAME", help="How a model directory lays out matrices  [default: the recipe's]")
@click.option("--split-size", metavar="SIZE", help="Write parts of at most this size: 2G, 500M.")
@click.option("--architecture", metavar="FILE", help="Facts of an architecture of your own, as TOML.")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub repository  [default: its own]")
@click.option("--allow-pickle", is_flag=True, help="Read pytorch_model.bin where there is nothing else: numbers only.")
@click.option("--push", metavar="ORG/NAME", help="Upload the output to the Hugging Face hub.")
@click.option("--public", is_flag=True, help="Let everybody see the repository that --push creates.")
@click.option("--dry-run", is_flag=True, help="Print the preview and stop; nothing is written.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Worker threads  [default: all cores]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of whatever is random.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something goes wrong.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    output: Path,
    calibration: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Quantize SOURCE (a Hugging Face directory, a hub id, an F32, F16 or BF16 GGUF file, or an ONNX file).

    OUT ends in .gguf, or in .onnx for an ONNX file; without an ending it is a model directory in a --dialect. A preview
    is printed before the work, and the file is read back by independent code and compared with SOURCE after it.
    OUT.card.json beside the file records what was done to each tensor and what it cost.
    """
    from fewbits.cli.output import stdout_reserved
    from fewbits.cli.progress import pause, progress_report
    from fewbits.quantizing import quantize

    shown: list[Preview] = []

    def show(preview: Preview) -> None:
        shown.append(preview)
        pause(report)  # a source may have been fetched
        if not (as_json or quiet):
            chosen = _choices(ctx, reads_text=preview.calibration is not None)
            # Of a graph whose values are rounded the preview itself says what was chosen.
            _print_preview(preview, [] if preview.recipe == "w8a8" and output.suffix == ".onnx" else chosen)

    stages = () if quiet or options["dry_run"] else _stages(source, options, given=bool(calibration))
    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(stdout_reserved())
        stack.enter_context(_naming(output))
        stack.enter_context(_telling_what_is_kept(output))
        report = stack.enter_context(progress_report(*stages, quiet=quiet))
        texts = [Path(path) for path in calibration] or None
        result = quantize(source, output, calibration=texts, on_preview=show, progress=report, **options)
    _print_result(result, as_json=as_json, quiet=quiet, preview_shown=bool(shown))


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Say which file found no room: the system's error of a failed write does not name it."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            error.filename = str(output)
        raise


@contextlib.contextmanager
def _telling_what_is_kept(output: Path) -> Iterator[None]:
    """Say that a calibrated run goes on where it was broken off."""
    from fewbits.request import workspace_path

    try:
        yield
    except BaseException:
        if workspace_path(output).is_dir():
            message = f"fewbits: what calibration has finished is kept in {workspace_path(output)}"
            click.echo(f"{message}; the same command goes on from there.", err=True)
        raise


def _stages(source: str, options: dict[str, Any], *, given: bool) -> tuple[str, ...]:
    """What gets a bar; raises RecipeError where there is no such recipe or method."""
    from fewbits import planning
    from fewbits.choosing import choose
    from fewbits.hub.locating import is_repository

    chosen = choose(planning.get(options["to"]), options["method"], text=given)
    fetched = ("download",) if is_repository(source) else ()
    rotated = ("rotate",) if chosen.rotation else ()
    walked = ("calibrate",) if chosen.reads_text else ()
    sent = ("upload",) if options["push"] else ()
    return (*fetched, *rotated, *walked, "quantize", "verify", *sent)


def _choices(ctx: click.Context, *, reads_text: bool) -> list[str]:
    """The options that the user left to us, as they would be written."""
    from click.core import ParameterSource

    from fewbits.way import asked

    names = {"to": "--to", "method": "--method", "threads": "--threads", "seed": "--seed"}
    if reads_text:
        names |= {"calibration": "--calibration", "guard": "--guard"}
        names |= {"windows": "--windows", "sequence_length": "--sequence-length"}
    instead = {"threads": "all", "method": asked(None, text=reads_text), "guard": "built-in"}
    left = [name for name in names if ctx.get_parameter_source(name) == ParameterSource.DEFAULT]
    values = {name: ctx.params[name] or instead.get(name, ctx.params[name] or "built-in") for name in left}
    values |= {"seed": ctx.params["seed"]} if "seed" in left else {}
    return [f"{names[name]} {values[name]}" for name in left]


def _print_preview(preview: Preview, choices: list[str]) -> None:
    from fewbits.cli.output import print_tables
    from fewbits.reporting.tables import preview_tables

    print_tables(preview_tables(preview, choices=choices))


def _print_result(result: Record | Preview, *, as_json: bool, quiet: bool, preview_shown: bool) -> None:
    from fewbits.cli.output import print_json, print_tables
    from fewbits.reporting.record import Preview, preview_to_json

    if as_json:
        print_json(preview_to_json(result) if isinstance(result, Preview) else result.to_json())
    elif quiet:
        return
    elif isinstance(result, Preview):
        if not preview_shown:
            _print_preview(result, [])
    else:
        from fewbits.reporting.tables import record_tables

        print_tables(record_tables(result))
