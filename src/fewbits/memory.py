"""Memory: what a piece of work took at most, and what there is left."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PAGES = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_GROUP = Path("/sys/fs/cgroup")
_FILE_PAGES = re.compile(r"^file (\d+)$", re.MULTILINE)
_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_INTERVAL = 0.02
"""Seconds between two looks."""


def resident_memory() -> int:
    """Bytes of resident memory less file-backed pages; the process's largest resident size where /proc is missing."""
    try:
        return 1024 * sum(map(int, _PAGES.findall(_STATUS.read_text(encoding="ascii"))))
    except OSError:  # pragma: no cover - not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_resident_memory() -> int:
    """Bytes: the largest resident size that this process has had, pages of mapped files included."""
    try:
        # Not getrusage, which counts what the process was before it became this program.
        found = _HIGH_WATER.search(_STATUS.read_text(encoding="ascii"))
    except OSError:  # pragma: no cover - not Linux
        found = None
    return 1024 * int(found[1]) if found else _peak_by_usage()


def _peak_by_usage() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory() -> int | None:
    """Bytes that can still be had without swapping, by the system and by this process's group; None where unknown."""
    try:
        found = _AVAILABLE.search(_MEMINFO.read_text(encoding="ascii"))
    except OSError:  # pragma: no cover - not Linux
        return None
    limits = [1024 * int(found[1])] if found else []
    return min([*limits, *_left_in_group()], default=None)


def _left_in_group() -> list[int]:
    """What the limit of the control group leaves, where there is one; its page cache can be given up."""
    try:
        limit, used = (int((_GROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        cached = _FILE_PAGES.search((_GROUP / "memory.stat").read_text(encoding="ascii"))
    except (OSError, ValueError):  # none, or "max"
        return []
    return [limit - used + (int(cached[1]) if cached else 0)]


class PeakMemory:
    """A context manager that looks at resident memory many times a second; `peak` is the largest seen, in bytes."""

    def __init__(self) -> None:
        self.peak = resident_memory()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="fewbits-memory", daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, resident_memory())

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.peak = max(self.peak, resident_memory())
