"""How `finetune` and `qat` run: preview, progress with loss and speed, what an interrupt leaves, the result."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fewbits.reporting.training_record import TrainingPreview, TrainingRecord

INTERRUPTED = 130
"""The exit code of a program that an interrupt ended."""

Verb = Callable[..., "TrainingRecord | TrainingPreview"]


def run_training(ctx: click.Context, verb: Verb, source: str, output: Path, options: dict[str, Any]) -> None:
    """Run `verb` with what the user asked for, and show what it does."""
    from fewbits.cli.output import stdout_reserved
    from fewbits.cli.training_options import reading_of, settings_of
    from fewbits.cli.training_progress import training_progress

    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    shown: list[TrainingPreview] = []

    def show(preview: TrainingPreview) -> None:
        shown.append(preview)
        watch.pause()
        if not (as_json or quiet):
            _print_preview(ctx, preview)

    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(stdout_reserved())
        stack.enter_context(_telling_what_is_kept(ctx, output))
        watch = stack.enter_context(training_progress(quiet=quiet))
        settings, reading = settings_of(options), reading_of(options)
        result = verb(
            source,
            output,
            data=reading,
            settings=settings,
            on_preview=show,
            progress=watch.stage,
            on_step=watch.step,
            **options,
        )
    _print_result(result, as_json=as_json, quiet=quiet)


@contextlib.contextmanager
def _telling_what_is_kept(ctx: click.Context, output: Path) -> Iterator[None]:
    """An interrupt ends with the code of such, after a sentence on how to go on."""
    from fewbits.request import training_path

    try:
        yield
    except KeyboardInterrupt:
        from fewbits.training.fitting.state import read_statement

        statement = read_statement(training_path(output))
        if statement is None:
            message = "interrupted before the first step; nothing was kept."
        else:
            message = (
                f"interrupted; the state after step {statement.step} of {statement.history.total} is kept in "
                f"{training_path(output)}, and the same command with --resume goes on from there."
            )
        sys.stderr.write(f"fewbits: {message}\n")
        ctx.exit(INTERRUPTED)


def _print_preview(ctx: click.Context, preview: TrainingPreview) -> None:
    from fewbits.cli.output import print_tables
    from fewbits.reporting.training_tables import training_preview_tables

    print_tables(training_preview_tables(preview, choices=_choices(ctx)))


def _print_result(result: TrainingRecord | TrainingPreview, *, as_json: bool, quiet: bool) -> None:
    from fewbits.cli.output import print_json, print_tables
    from fewbits.reporting.training_record import TrainingRecord
    from fewbits.reporting.training_tables import training_tables

    if as_json:
        print_json(result.to_json())
    elif isinstance(result, TrainingRecord) and not quiet:
        print_tables(training_tables(result))


_SAID = ("learning_rate", "epochs", "batch", "accumulate", "lora", "alpha", "base", "precision", "optimizer", "seed")
"""Options whose defaults a user should see; None stands for what is said after it."""
_INSTEAD = {"alpha": "the rank", "base": "as it is"}


def _choices(ctx: click.Context) -> list[str]:
    """The options that the user left to us, as they would be written."""
    from click.core import ParameterSource

    names = [name for name in _SAID if ctx.get_parameter_source(name) == ParameterSource.DEFAULT]
    names = [name for name in names if name != "epochs" or ctx.params["steps"] is None]
    values = {name: _INSTEAD.get(name) if ctx.params[name] is None else ctx.params[name] for name in names}
    return [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
