"""Energy as the processor itself counts it (RAPL), read from Linux's powercap tree; where there is none, why not.

The kernel's Documentation/power/powercap/powercap.rst: a zone has `name`, `energy_uj`, a counter in microjoules, and
`max_energy_range_uj`, after which the counter begins at zero again. Zones of packages are counted, and those of memory
beneath them, which packages leave out; cores and graphics are part of their package, and `psys` would count it twice.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
INTERVAL = 10.0
"""Seconds between two looks: the smallest range in use, 65 kJ, lasts a package of 1 kW for a minute."""


@dataclass(frozen=True)
class Counter:
    """One zone's counter of microjoules, which begins again at zero after `wrap`."""

    name: str
    file: Path
    wrap: int

    def read(self) -> int:
        """Microjoules now; raises OSError where they cannot be read."""
        return int(self.file.read_text(encoding="ascii"))

    def between(self, before: int, after: int) -> int:
        """Microjoules from one reading to the next, at most one wrap-around later.

        >>> counter = Counter("package-0", Path("energy_uj"), 1000)
        >>> counter.between(100, 350), counter.between(900, 50)
        (250, 150)
        """
        return after - before if after >= before else after + self.wrap - before


@dataclass(frozen=True)
class Counters:
    """The counters that can be read, or the sentence that says why none can."""

    counters: tuple[Counter, ...]
    unmeasured: str | None


def find_counters(tree: Path = POWERCAP) -> Counters:
    """The counters of packages and of memory under a powercap `tree`."""
    if not tree.is_dir():
        return _none(f"this system has no {tree}, where Linux shows a processor's counters of energy")
    found = []
    for zone in sorted(tree.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if name.startswith("package") or name == "dram":
                counter = Counter(name, zone / "energy_uj", int((zone / "max_energy_range_uj").read_text("ascii")))
                counter.read()
                found.append(counter)
        except PermissionError as error:
            return _none(f"{error.filename} can be read by root alone")
        except (OSError, ValueError) as error:
            return _none(f"{zone} cannot be read ({error})")
    if not any(counter.name.startswith("package") for counter in found):
        return _none(f"{tree} shows no counter of a processor's package (intel-rapl), as in most virtual machines")
    return Counters(tuple(found), None)


def _none(why: str) -> Counters:
    return Counters((), f"energy cannot be measured: {why}.")


@dataclass
class EnergyMeter:
    """Adds up what counters count while it is open; a context manager that looks too often to miss a wrap-around."""

    counters: tuple[Counter, ...]
    interval: float = INTERVAL
    _last: list[int] = field(default_factory=list)
    _microjoules: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None

    def joules(self) -> float | None:
        """Joules since the meter was opened; None where there are no counters.

        Raises OSError when a counter that was readable is not any more.
        """
        if not self.counters:
            return None
        with self._lock:
            now = [counter.read() for counter in self.counters]
            self._microjoules += sum(
                counter.between(*ends) for counter, *ends in zip(self.counters, self._last, now, strict=True)
            )
            self._last = now
            return self._microjoules / 1e6

    def __enter__(self) -> EnergyMeter:
        if self.counters:
            self._last = [counter.read() for counter in self.counters]
            self._watcher = threading.Thread(target=self._watch, name="fewbits-energy", daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._watcher:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            with contextlib.suppress(OSError):  # whoever asks for joules meets the same error, and can tell
                self.joules()
