"""`fewbits push`: the command over `fewbits.push`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fewbits.reporting.record import PushPlan


@click.command("push")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option(
    "--base-model", metavar="ORG/NAME", help="What it was made from  [default: where the source was fetched from]"
)
@click.option("--compare", metavar="FILE", help="Figures of `compare --json`  [default: PATH.compare.json, if there]")
@click.option("--public", is_flag=True, help="Let everybody see a repository that is created; else it is private.")
@click.option("--dry-run", is_flag=True, help="Say what would be uploaded and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something goes wrong.")
def command(
    path: Path,
    repository: str,
    base_model: str | None,
    compare: str | None,
    public: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Upload PATH, a GGUF file or model directory that quantize wrote, to ORG/NAME of the Hugging Face hub.

    A model card is made from the card beside PATH. A repository that does not exist is created, private unless
    --public. What the hub has already is not sent again, so that the same command goes on where an upload broke off.
    """
    from fewbits.cli.output import print_json, print_tables, stdout_reserved
    from fewbits.cli.progress import progress_report
    from fewbits.hub.push import push
    from fewbits.reporting.hub_tables import push_json, push_tables, pushed_tables
    from fewbits.reporting.record import PushPlan

    def show(plan: PushPlan, size: int) -> None:
        if not (as_json or quiet):
            print_tables(push_tables(plan, size))

    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(stdout_reserved())
        report = stack.enter_context(progress_report(quiet=quiet))
        result = push(
            path,
            repository,
            base_model=base_model,
            compare=compare,
            public=public,
            dry_run=dry_run,
            on_plan=show,
            progress=report,
        )
    if as_json:
        print_json(push_json(result))
    elif not (quiet or isinstance(result, PushPlan)):
        print_tables(pushed_tables(result))
