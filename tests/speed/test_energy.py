"""Energy by a powercap tree: which zones count, what a wrap-around is, and what is said where nothing can be read."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fewbits.speed import energy
from fewbits.speed.energy import EnergyMeter, find_counters

WRAP = 65_532_610_987


def zone(tree: Path, folder: str, name: str, microjoules: int, wrap: int = WRAP) -> Path:
    """A zone of a powercap tree; its counter."""
    place = tree / folder
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{wrap}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


def test_packages_and_memory_count_and_nothing_counts_twice(tmp_path: Path) -> None:
    counters = {
        name: zone(tmp_path, folder, name, 1000)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "uncore"),
            ("intel-rapl:0:2", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
        )
    }
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1000)
    (tmp_path / "intel-rapl").mkdir()

    found = find_counters(tmp_path)

    assert [counter.name for counter in found.counters] == ["package-0", "dram", "package-1"]
    assert found.unmeasured is None
    with EnergyMeter(found.counters) as meter:
        for number, path in enumerate(counters.values()):
            path.write_text(f"{1000 + 10**6 * 2**number}\n")
        assert meter.joules() == 1 + 8 + 16


def test_a_counter_that_began_again_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", WRAP - 2_000_000)

    with EnergyMeter(find_counters(tmp_path).counters) as meter:
        counter.write_text("3000000")
        first = meter.joules()
        counter.write_text("4500000")
        second = meter.joules()

    assert (first, second) == (5.0, 6.5)


def test_two_wrap_arounds_are_counted_by_who_looks_in_between(tmp_path: Path) -> None:
    wrap, values = 10_000_000, iter([9_000_000, 1_000_000, 9_000_000, 1_000_000])
    counter, seen = zone(tmp_path, "intel-rapl:0", "package-0", 8_000_000, wrap), threading.Event()
    meter = EnergyMeter(find_counters(tmp_path).counters, interval=0.001)
    look = meter.joules

    def next_look() -> float | None:
        value = next(values, None)
        if value is None:
            seen.set()
        else:
            counter.write_text(str(value))
        return look()

    meter.joules = next_look  # type: ignore[method-assign]
    with meter:
        assert seen.wait(10)

    assert look() == 13.0


def test_a_meter_without_counters_says_nothing() -> None:
    with EnergyMeter(()) as meter:
        assert meter.joules() is None


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda tree: tree.rmdir(), "energy cannot be measured: this system has no .*"),
        (lambda tree: None, "energy cannot be measured: .* shows no counter of a processor's package .*"),
        (lambda tree: zone(tree, "intel-rapl:0:2", "dram", 1), ".* shows no counter of a processor's package .*"),
        (
            lambda tree: zone(tree, "intel-rapl:0", "package-0", 1).write_text("much"),
            r".*intel-rapl:0 cannot be read \(invalid literal.*",
        ),
        (lambda tree: zone(tree, "intel-rapl:0", "package-0", 1).unlink(), r".*intel-rapl:0 cannot be read \(.*"),
    ],
)
def test_what_cannot_be_read_is_said(prepare: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    tree = tmp_path / "powercap"
    tree.mkdir()
    prepare(tree)

    found = find_counters(tree)

    assert found.counters == ()
    assert found.unmeasured is not None
    assert re.fullmatch(why, found.unmeasured)


def test_who_may_not_read_learns_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read_text = Path.read_text

    def refuse(path: Path, *arguments: str, **options: str) -> str:
        if path == counter:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(energy.Path, "read_text", refuse)

    assert find_counters(tmp_path).unmeasured == (f"energy cannot be measured: {counter} can be read by root alone.")
