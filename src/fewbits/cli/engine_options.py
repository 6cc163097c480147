"""Options that `run` and `chat` share: how a model is loaded, and how tokens are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fewbits.engine.sampling import Sampling

Function = TypeVar("Function", bound=Callable[..., Any])

_SAMPLING = (
    click.option(
        "--temperature", type=float, default=0.8, show_default=True, metavar="T", help="0 takes the best token."
    ),
    click.option("--top-k", type=int, default=40, show_default=True, metavar="K", help="Best tokens left; 0 for all."),
    click.option(
        "--top-p", type=float, default=0.95, show_default=True, metavar="P", help="Probability left; 1 for all."
    ),
    click.option(
        "--min-p", type=float, default=0.05, show_default=True, metavar="P", help="Of the best one's; 0 for none."
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        default=1.0,
        show_default=True,
        metavar="R",
        help="Above 1 against repetition.",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of the choice  [default: a random one, which is said]"),
)
_ENGINE = (
    click.option("--stop", multiple=True, metavar="TEXT", help="End where this would be written; repeatable."),
    click.option("--context", type=int, metavar="N", help="Tokens that there is room for."),
    click.option(
        "--cache",
        type=click.Choice(["F32", "F16", "Q8_0", "Q4_0"]),
        help="Format of cached keys and values  [default: F16, with --exact F32]",
    ),
    click.option("--exact", is_flag=True, help="Float activations: slower, nothing is rounded."),
    click.option("--mmap", is_flag=True, help="Leave weights in the file's pages instead of copying them."),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Worker threads  [default: all cores]"),
)
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
"""Names of what makes a `Sampling`."""


def sampling_options(function: Function) -> Function:
    """Add the options by which tokens are chosen."""
    return _with(function, _SAMPLING)


def engine_options(function: Function) -> Function:
    """Add the options by which a model is loaded and stopped."""
    return _with(function, _ENGINE)


def sampling_of(options: dict[str, Any]) -> Sampling:
    """Take the options of sampling out of `options`; EngineError where one is out of its range."""
    from fewbits.engine.sampling import Sampling

    stated = {name: options.pop(name) for name in SAMPLING}
    return Sampling(**{name: value for name, value in stated.items() if value is not None})


def chosen_for_you(ctx: click.Context, settings: Mapping[str, Any]) -> str:
    """The settings that the user left to us, as options would say them."""
    from click.core import ParameterSource

    left = {
        name: value
        for name, value in settings.items()
        if name in ctx.params and ctx.get_parameter_source(name) == ParameterSource.DEFAULT
    }
    if "threads" in left:
        left["threads"] = left["threads"] or "all"
    shown = {name: value for name, value in left.items() if value is not None and value is not False and value != []}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in shown.items())


def _with(function: Function, options: tuple[Callable[[Function], Function], ...]) -> Function:
    for option in reversed(options):
        function = option(function)
    return function
