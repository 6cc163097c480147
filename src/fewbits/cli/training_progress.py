"""How far a training is, on stderr: a bar with loss, tokens per second and time left, or now and then a plain line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from fewbits.cli.progress import SECONDS_BETWEEN_LINES, Report, pause, progress_report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fewbits.training.fitting.history import History, Step


class Watch(Protocol):
    """What is told of a training."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """How far something beside the steps is."""

    def step(self, step: Step, history: History) -> None:
        """A step is done."""

    def pause(self) -> None:
        """Something else is to be printed."""


@contextmanager
def training_progress(*, quiet: bool = False) -> Iterator[Watch]:
    """What shows how far a training is, in the way that suits stderr."""
    with progress_report(quiet=quiet) as report:
        if quiet:
            yield _Told(report, lambda step, history: None)
        elif not sys.stderr.isatty():
            yield _Told(report, PlainSteps())
        else:
            bar = StepBar()
            try:
                yield _Told(report, bar, bar.stop)
            finally:
                bar.stop()


class _Told:
    """Stages in one place, steps in another."""

    def __init__(
        self, report: Report, steps: Callable[[Step, History], None], stop: Callable[[], None] = lambda: None
    ) -> None:
        self._report, self._steps, self._stop = report, steps, stop

    def stage(self, stage: str, done: int, total: int) -> None:
        """How far something beside the steps is."""
        self._stop()
        self._report(stage, done, total)

    def step(self, step: Step, history: History) -> None:
        """A step is done."""
        pause(self._report)
        self._steps(step, history)

    def pause(self) -> None:
        """Something else is to be printed."""
        pause(self._report)
        self._stop()


def told(step: Step, history: History) -> str:
    """Loss, speed and time left of a training after `step`."""
    from fewbits.reporting.figures import duration

    left = history.seconds_left()
    time_left = "" if not left else f", about {duration(left)} left"
    return f"loss {step.loss:.4f}, {history.tokens_per_second:.0f} tokens/s{time_left}"


class PlainSteps:
    """One line every 20 seconds, and one for the first step, which tells how long all will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def __call__(self, step: Step, history: History) -> None:
        """Print a line when the last one is long ago."""
        now = self._clock()
        if self._last is not None and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        sys.stderr.write(f"fewbits: step {step.number} of {step.total}, {told(step, history)}\n")
        sys.stderr.flush()


class StepBar:
    """A bar in a terminal."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, step: Step, history: History) -> None:
        """Move the bar."""
        if self._bars is None:
            self._bars = _bar()
            self._bars.start()
            self._task = self._bars.add_task("train", total=step.total, told="")
        assert self._task is not None, "made with the bar"
        self._bars.update(self._task, completed=step.number, total=step.total, told=told(step, history))

    def stop(self) -> None:
        """Take the bar off the screen."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
        console=Console(stderr=True),
        refresh_per_second=5,
        transient=True,
    )
