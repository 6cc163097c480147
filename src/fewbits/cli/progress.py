"""Progress on stderr: bars with the time left in a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[str, int, int], None]
"""report(stage, done, total); a total of 0 says that the stage is being prepared."""

SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def progress_report(*stages: str, quiet: bool = False) -> Iterator[Report]:
    """A function that shows how far each of `stages` is, in the way that suits stderr."""
    if quiet:
        yield _ignore
    elif not sys.stderr.isatty():
        yield PlainLines()
    else:
        bars = Bars(_progress(), stages)
        try:
            yield bars
        finally:
            bars.stop()


def pause(report: Report) -> None:
    """Take bars off the screen, so that something else can be printed."""
    if isinstance(report, Bars):
        report.stop()


def _ignore(stage: str, done: int, total: int) -> None:
    pass


class PlainLines:
    """One line every 20 seconds, none for short work; for logs, where a bar would be noise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._began: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print a line when the last one is long ago."""
        if total == 0:
            return
        now = self._clock()
        began = self._began.setdefault(stage, now)
        if now - self._last < SECONDS_BETWEEN_LINES or done == 0:
            return
        self._last = now
        left = (now - began) * (total - done) / done
        sys.stderr.write(f"fewbits: {stage} {100 * done // total}%, about {left:.0f} s left\n")
        sys.stderr.flush()


class Bars:
    """One bar per stage in a terminal; a bar's clock starts with its first report, so that loading is not counted.

    Nothing is drawn before the first report, so that what is printed meanwhile (the preview) is not overdrawn.
    """

    def __init__(self, bars: Progress, stages: tuple[str, ...]) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {stage: bars.add_task(stage, total=None, start=False) for stage in stages}
        self._seen: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None, start=False)
        if total == 0:
            self._bars.start_task(self._tasks[stage])  # it pulses
            return
        if stage not in self._seen:
            self._seen.add(stage)
            self._bars.reset(self._tasks[stage], total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def stop(self) -> None:
        """Take the bars off the screen; the next report brings back those that are not finished."""
        self._bars.stop()
        for stage, task in list(self._tasks.items()):
            if self._bars.tasks and any(each.id == task and each.finished for each in self._bars.tasks):
                self._bars.remove_task(task)
                del self._tasks[stage]


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=5,
        transient=True,
    )
