"""How fast a model runs, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fewbits.reporting import figures
from fewbits.reporting.table_parts import facts_table, simple_table
from fewbits.speed.bench import Speed
from fewbits.speed.rates import Rate

if TYPE_CHECKING:
    from rich.console import RenderableType


def speed_tables(speed: Speed) -> list[RenderableType]:
    """Rates, what bounds them, and what they cost."""
    facts = [
        ("model", f"{speed.model}, {speed.architecture}"),
        ("worked with", ", ".join(_ways(speed))),
        (
            "loading",
            f"{figures.duration(speed.load_seconds)}; first token {figures.duration(speed.first_token_seconds)}",
        ),
        ("memory", _memory(speed)),
        *_bound(speed),
        ("energy", speed.energy_unmeasured or f"counted by {', '.join(speed.energy_counters)}, idle power included"),
    ]
    return [_rates(speed), facts_table("", facts)]


def _rates(speed: Speed) -> Table:
    columns = ("tokens/s", "slowest", "fastest", "at most", "reached", "J/token")
    table = simple_table("Speed", ("", "left"), *((name, "right") for name in columns))
    if speed.prompt:
        table.add_row(Text(f"prompt of {_what(speed.prompt)}"), *_figures(speed.prompt), "", "", _joules(speed.prompt))
    if speed.generation:
        most, share = speed.most_tokens_per_second, speed.share_of_most
        bound = (f"{most:.2f}", figures.percent(share)) if most and share else ("", "")
        what = Text(f"generation of {_what(speed.generation)}")
        table.add_row(what, *_figures(speed.generation), *bound, _joules(speed.generation))
    return table


def _what(rate: Rate) -> str:
    """The work in words.

    >>> _what(Rate(32, 8192, (1.0,), None)), _what(Rate(1, 0, (1.0, 2.0), None))
    ('32 tokens behind 8192', '1 token, median of 2')
    """
    behind = f" behind {rate.depth}" if rate.depth else ""
    repeats = f", median of {len(rate.seconds)}" if len(rate.seconds) > 1 else ""
    return f"{rate.tokens} token{'' if rate.tokens == 1 else 's'}{behind}{repeats}"


def _figures(rate: Rate) -> tuple[str, ...]:
    return tuple(f"{figure:.2f}" for figure in (rate.tokens_per_second, rate.slowest, rate.fastest))


def _joules(rate: Rate) -> str:
    return "-" if rate.joules_per_token is None else f"{rate.joules_per_token:.3g}"


def _ways(speed: Speed) -> list[str]:
    """How the engine ran."""
    threads = f"{speed.threads} thread{'' if speed.threads == 1 else 's'}"
    exact = ["inputs not rounded (exact)"] if speed.exact else []
    return [threads, speed.isa, *exact, *(["weights mapped"] if speed.mmap else [])]


def _memory(speed: Speed) -> str:
    cache = f"cache of {speed.context} tokens in {speed.cache} {figures.size(speed.cache_bytes)}"
    return f"{figures.size(speed.peak_memory)} at most; file {figures.size(speed.file_bytes)}, {cache}"


def _bound(speed: Speed) -> list[tuple[str, str]]:
    """What generation is held against."""
    if speed.bandwidth is None:
        return []
    reads = f"a token reads {figures.size(speed.bytes_per_token)}"
    return [("at most", f"{reads}, and this machine {figures.size(round(speed.bandwidth))}/s")]
