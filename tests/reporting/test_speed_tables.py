"""What a person reads of a model's speed."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fewbits.reporting.speed_tables import speed_tables
from fewbits.speed.bench import Speed
from fewbits.speed.rates import Rate

SPEED = Speed(
    model="m\x1b[31m.gguf",
    architecture="llama",
    threads=2,
    isa="avx2",
    exact=False,
    mmap=False,
    cache="F16",
    context=288,
    file_bytes=676_000_000,
    cache_bytes=9_437_184,
    peak_memory=712_000_000,
    load_seconds=0.12,
    first_token_seconds=0.31,
    prompt=Rate(256, 0, (2.0, 1.0, 4.0), None),
    generation=Rate(32, 0, (1.0, 1.0, 1.0), None),
    bytes_per_token=625_000_000,
    bandwidth=25e9,
    energy_counters=(),
    energy_unmeasured="energy cannot be measured: there are no counters.",
)


def shown(speed: Speed) -> str:
    console = Console(file=io.StringIO(), width=120)
    for table in speed_tables(speed):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, beginning: str) -> list[str]:
    """What stands behind a line's title."""
    return next(line for line in text.splitlines() if line.strip().startswith(beginning)).split(beginning)[1].split()


def test_rates_and_what_bounds_them() -> None:
    text = shown(SPEED)

    assert row(text, "prompt of 256 tokens, median of 3") == ["128.00", "64.00", "256.00", "-"]
    assert row(text, "generation of 32 tokens, median of 3") == ["32.00", "32.00", "32.00", "40.00", "80%", "-"]
    assert "a token reads 625 MB, and this machine 25.0 GB/s" in text
    assert "712 MB at most; file 676 MB, cache of 288 tokens in F16 9.44 MB" in text
    assert "0.12 s; first token 0.31 s" in text
    assert "2 threads, avx2" in text
    assert "energy cannot be measured: there are no counters." in text
    assert "\x1b" not in text


def test_energy_where_it_was_measured() -> None:
    counted = replace(SPEED, generation=Rate(32, 8192, (1.0,), 40.0), prompt=None, energy_unmeasured=None)
    text = shown(replace(counted, energy_counters=("package-0", "dram"), exact=True, mmap=True, threads=1))

    assert row(text, "generation of 32 tokens behind 8192")[-1] == "1.25"
    assert "counted by package-0, dram, idle power included" in text
    assert "prompt" not in text
    assert "1 thread, avx2, inputs not rounded (exact), weights mapped" in text


@pytest.mark.parametrize("bandwidth", [None])
def test_nothing_is_said_of_a_limit_that_was_not_measured(bandwidth: float | None) -> None:
    text = shown(replace(SPEED, bandwidth=bandwidth))

    assert row(text, "generation of 32 tokens, median of 3") == ["32.00", "32.00", "32.00", "-"]
    assert "this machine" not in text
