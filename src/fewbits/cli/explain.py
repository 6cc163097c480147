"""`fewbits explain`: the command over `fewbits.explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fewbits.explanation.tensor import TensorExplained


# Unknown options are taken as numbers, because some of these begin with a minus; what is no number is refused below.
@click.command("explain", context_settings={"ignore_unknown_options": True})
@click.argument("numbers", nargs=-1, metavar="[NUMBER]...")
@click.option("--tensor", metavar="FILE:NAME", help="A tensor of a GGUF or safetensors file, or of a model directory.")
@click.option("--formats", "names", metavar="A,B,C", help="Formats to show, or `all`  [default: the usual ones]")
@click.option("--png", metavar="OUT.png", type=click.Path(path_type=Path), help="Draw the tensor into a picture too.")
@click.option("--force", is_flag=True, help="Replace the picture if it exists.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Look at about N numbers of the tensor  [default: 8000000]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
def command(
    numbers: tuple[str, ...],
    tensor: str | None,
    names: str | None,
    png: Path | None,
    force: bool,
    sample: int | None,
    as_json: bool,
) -> None:
    """Show what formats make of NUMBERs: the stored bits, the value that comes back, the error.

    With --tensor, the same of a tensor in a file: its histogram before and after, and the error of each format.
    """
    chosen = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if tensor is None:
        _explain_numbers(numbers, chosen, as_json, needing_tensor=[png is not None, sample is not None])
        return
    if numbers:
        raise click.UsageError(f"'{numbers[0]}' beside --tensor: give numbers or a tensor to explain, not both")
    explained = _explain_tensor(tensor, chosen, sample, png, force)
    from fewbits.cli.output import print_json, print_tables
    from fewbits.reporting.explanation_tables import tensor_tables

    if as_json:
        print_json(explained.to_json())
    else:
        print_tables(tensor_tables(explained, str(png) if png else None))


def _explain_numbers(
    numbers: tuple[str, ...], names: list[str] | None, as_json: bool, needing_tensor: list[bool]
) -> None:
    if any(needing_tensor):
        raise click.UsageError("--png and --sample are about a tensor: say which with --tensor FILE:NAME")
    if not numbers:
        raise click.UsageError("nothing to explain: give numbers, or --tensor FILE:NAME")
    parsed = [_number(text) for text in numbers]
    from fewbits.cli.output import print_json, print_tables
    from fewbits.explanation.explain import explain

    explained = explain(*parsed, formats=names)
    if as_json:
        print_json(explained.to_json())
    else:
        from fewbits.reporting.explanation_tables import number_tables

        print_tables(number_tables(explained))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"'{text}' is neither a number nor an option of explain") from None


def _explain_tensor(
    tensor: str, names: list[str] | None, sample: int | None, png: Path | None, force: bool
) -> TensorExplained:
    from fewbits.cli.progress import progress_report
    from fewbits.explanation.explain import explain
    from fewbits.explanation.tensor import SAMPLE

    if png is not None:
        from fewbits.reporting.plots import require_drawable

        require_drawable(png, force=force)
    with progress_report("explain") as report:
        explained = explain(
            tensor=tensor,
            formats=names,
            sample=sample or SAMPLE,
            levels=png is not None,
            progress=lambda done, total: report("explain", done, total),
        )
    if png is not None:
        from fewbits.reporting.plots import draw_tensor

        draw_tensor(explained, png)
    return explained
