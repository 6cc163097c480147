"""The loop: spoil an input, read it, and keep it as a new beginning where the reader says something it never said.

A sentence without its numbers and quotations tells how far an input got; so no instrument has to watch the code.
"""

from __future__ import annotations

import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from fewbits.errors import FewbitsError
from fuzz.mutations import mutated
from fuzz.targets import Target

SLOW = 1.0
"""Seconds of processor time that no input may take."""
SLOWLY = f"took {SLOW:.0f} s or more"
HANG = 60
"""Seconds after which a reader is stopped."""
GROWTH = 100_000
"""kB that memory may grow by over one input."""
MOST_SAID = 2000


class _HangError(BaseException):
    """Raised inside of a reader that does not come back."""


@dataclass
class Outcome:
    """What became of one target."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    said: set[str] = field(default_factory=set)
    """Different sentences."""
    crashes: dict[str, bytes] = field(default_factory=dict)
    """What went wrong -> the first input that did it."""

    def line(self, name: str, seed: int) -> str:
        """The outcome, for a person."""
        share = 100 * self.accepted / max(self.inputs, 1)
        rate = self.inputs / max(self.seconds, 1e-9)
        return (
            f"{name}: {self.inputs} inputs in {self.seconds:.0f} s ({rate:.0f} per s), {share:.0f}% accepted, "
            f"{len(self.said)} different sentences, {len(self.crashes)} crashes, seed {seed}"
        )


def fuzz(
    target: Target, folder: Path, *, seed: int, seconds: float | None = None, inputs: int | None = None
) -> Outcome:
    """Read spoiled inputs for `seconds`, or so many `inputs`, in the empty folder `folder`; a seed repeats itself."""
    random, outcome = Random(seed), Outcome()
    seeds, corpus = target.seeds(), target.seeds()
    for each in seeds:
        _load(target, folder, each)
        _try(target, folder, each, outcome)
        assert outcome.accepted, "the first input to begin with is not taken"
    began, path = time.monotonic(), folder / target.name
    while (inputs is None or outcome.inputs < inputs) and (seconds is None or time.monotonic() - began < seconds):
        # Half of the time from what is accepted: what is refused early hides what comes after.
        data = mutated(random, target.mutations, seeds if random.random() < 0.5 else corpus)
        if _try(target, folder, data, outcome):
            corpus.append(data)
    outcome.seconds = time.monotonic() - began
    path.unlink(missing_ok=True)
    return outcome


def _load(target: Target, folder: Path, data: bytes) -> None:
    """Read `data` once, so that whatever a reader loads is there before anything is timed."""
    path = folder / target.name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    with suppress(FewbitsError):
        target.read(path)


def _try(target: Target, folder: Path, data: bytes, outcome: Outcome) -> bool:
    """Read `data`; returns whether the reader said something new."""
    outcome.inputs += 1
    said, fault = _read(target, folder, data)
    if fault == SLOWLY:  # the first time may have loaded a package
        said, fault = _read(target, folder, data)
    outcome.accepted += said is None and fault is None
    if fault is not None:
        outcome.crashes.setdefault(fault, data)
    shape = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|[\d.]+", "*", said or "")[:300]
    new = shape not in outcome.said
    outcome.said.add(shape)
    return new and fault is None


def _read(target: Target, folder: Path, data: bytes) -> tuple[str | None, str | None]:
    """What the reader says of `data`, None where it takes it, and what is wrong with that."""
    path = folder / target.name
    path.unlink(missing_ok=True)  # a new file each time: a mapped one must not change
    path.write_bytes(data)
    memory, began = _peak(), time.process_time()
    said, fault = None, None
    try:
        with _stopping():
            target.read(path)
    except FewbitsError as error:
        said = str(error)
        fault = "a sentence of several lines" if "\n" in said else None
        fault = f"a sentence of {MOST_SAID} characters or more" if len(said) > MOST_SAID else fault
    except BaseException as error:  # this is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        fault = f"{type(error).__name__} {_place(error)}"
    if fault is None and time.process_time() - began > SLOW:
        fault = SLOWLY
    if fault is None and _peak() - memory > GROWTH:
        fault = "took 100 MB or more"
    return said, fault


def _place(error: BaseException) -> str:
    """Where it was raised: the innermost line of our own."""
    frame, found = error.__traceback__, ""
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if "/fewbits/" in file or "/fuzz/" in file:
            found = f"at {file.rpartition('/fewbits/')[2].rpartition('/fuzz/')[2]}:{frame.tb_lineno}"
        frame = frame.tb_next
    said = re.sub(r"\d+", "*", str(error))
    return f"{found} ({said.splitlines()[0][:120] if said else ''})"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _stopping() -> Iterator[None]:
    """Raise inside of what takes too long."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
