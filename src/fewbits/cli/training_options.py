"""Options that `finetune` and `qat` share: what is learned from, how, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fewbits.training.fitting.settings import Settings
    from fewbits.training.material.reading import Reading

Function = TypeVar("Function", bound=Callable[..., Any])

_PATH: Any = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)

_DATA = (
    click.option("--data", required=True, metavar="FILE", type=_PATH, help="JSON Lines or a text to learn from."),
    click.option(
        "--field", metavar="NAME", help="Field of each line  [default: text, messages, or prompt, completion]"
    ),
    click.option("--template", metavar="NAME", help="How conversations are written: chatml, ..., or a file."),
    click.option("--validation", metavar="FILE", type=_PATH, help="What losses before and after are measured on."),
    click.option(
        "--hold-out",
        type=float,
        default=0.05,
        show_default=True,
        metavar="SHARE",
        help="Of FILE, without --validation.",
    ),
    click.option(
        "--sequence-length", type=_COUNT, metavar="N", help="Tokens of a window  [default: 512, or the model's]"
    ),
    click.option("--batch", type=_COUNT, default=4, show_default=True, metavar="N", help="Windows at once."),
    click.option("--packing/--no-packing", default=None, help="Fill windows with several lines  [default: texts only]"),
    click.option("--cut", is_flag=True, help="Cut lines that are longer than a window instead of refusing them."),
)
_KEEPING = (
    click.option("--resume", is_flag=True, help="Go on from the state of a run that was broken off."),
    click.option("--stop-at", type=_COUNT, metavar="STEP", help="End after this step and write what there is."),
    click.option("--save-every", type=_COUNT, default=50, show_default=True, metavar="N", help="Steps between states."),
    click.option("--plot", metavar="FILE", type=_PATH, help="Draw the losses (.png, .svg; extra `plots`)."),
    click.option(
        "--tensorboard", "logs", metavar="DIR", type=_PATH, help="Write logs for TensorBoard (extra `train`)."
    ),
    click.option("--dry-run", is_flag=True, help="Try a step, print the preview and stop; nothing is written."),
    click.option("--force", is_flag=True, help="Replace the output if it exists, and forget a state."),
    click.option("--threads", type=_COUNT, metavar="N", help="Threads  [default: all cores]"),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of whatever is random."),
    click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub repository  [default: its own]"),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something goes wrong."),
)
SETTINGS = (
    *("steps", "epochs", "learning_rate", "warmup", "schedule", "accumulate", "clip", "weight_decay", "optimizer"),
    *("precision", "checkpointing", "save_every", "seed"),
)
"""Names of what makes `Settings`."""
READING = ("data", "field", "template", "validation", "hold_out", "batch", "packing", "cut")
"""Names of what makes a `Reading`, beside the length."""


def data_options(function: Function) -> Function:
    """Add the options that say what is learned from."""
    return _with(function, _DATA)


def settings_options(rate: float) -> Callable[[Function], Function]:
    """Add the options that say how; `rate` is the usual learning rate."""
    options = (
        click.option(
            "--steps", type=_COUNT, metavar="N", help="Steps of the optimizer  [default: what --epochs takes]"
        ),
        click.option("--epochs", type=float, default=1.0, show_default=True, metavar="X", help="Passes over the data."),
        click.option("--learning-rate", type=float, default=rate, show_default=True, metavar="X", help="The largest."),
        click.option(
            "--warmup", type=float, default=0.03, show_default=True, metavar="SHARE", help="Of steps: it rises."
        ),
        click.option(
            "--schedule", default="cosine", show_default=True, metavar="NAME", help="cosine, linear, constant"
        ),
        click.option("--accumulate", type=_COUNT, default=1, show_default=True, metavar="N", help="Batches of a step."),
        click.option("--clip", type=float, default=1.0, show_default=True, metavar="X", help="Largest gradient norm."),
        click.option("--weight-decay", type=float, default=0.0, show_default=True, metavar="X"),
        click.option(
            "--optimizer",
            default="adamw",
            show_default=True,
            metavar="NAME",
            help="adamw, adamw_8bit, paged_adamw_8bit",
        ),
        click.option("--precision", default="float32", show_default=True, metavar="NAME", help="float32 or bfloat16"),
        click.option("--checkpointing", is_flag=True, help="Compute states twice: less memory, more time."),
    )
    return lambda function: _with(function, options)


def keeping_options(function: Function) -> Function:
    """Add the options that say what is kept, shown and written."""
    return _with(function, _KEEPING)


def settings_of(options: dict[str, Any]) -> Settings:
    """Take the settings out of `options`; TrainingError where one is out of its range."""
    from fewbits.training.fitting.settings import Settings

    return Settings(**{name: options.pop(name) for name in SETTINGS})


def reading_of(options: dict[str, Any]) -> Reading:
    """Take what is learned from out of `options`; TrainingError where it cannot be."""
    from fewbits.training.material.reading import Reading

    return Reading(length=options.pop("sequence_length"), **{name: options.pop(name) for name in READING})


def _with(function: Function, options: tuple[Callable[[Function], Function], ...]) -> Function:
    for option in reversed(options):
        function = option(function)
    return function
