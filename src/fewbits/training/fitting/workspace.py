"""Where a training keeps its state until its output is there: a folder beside the output, one run at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewbits.errors import TrainingError
from fewbits.locking import LOCK, lock_folder
from fewbits.request import training_path
from fewbits.training.fitting.state import read_statement, remove_state


@contextmanager
def workspace(output: Path, *, resume: bool, force: bool) -> Iterator[Path]:
    """The folder of the training that makes `output`, locked; TrainingError where it holds what was not asked for.

    Without `resume` it has to be empty, or is emptied by `force`; with it there has to be a state.
    """
    folder = training_path(output)
    if not output.parent.is_dir():
        raise TrainingError(f"{output} cannot be written: {output.parent} is no directory; create it first.")
    if resume and not folder.is_dir():
        raise TrainingError(
            f"{output}: there is no training to resume ({folder} does not exist); begin without --resume."
        )
    folder.mkdir(exist_ok=True)
    lock = lock_folder(folder)
    if lock is None:
        raise TrainingError(
            f"{output} is being trained by another run of fewbits; wait for it or choose another output."
        )
    try:
        _require_asked(folder, output, resume=resume, force=force)
        yield folder
    finally:
        os.close(lock)
        if read_statement_or_none(folder) is None:
            (folder / LOCK).unlink(missing_ok=True)
            remove_state(folder)


def _require_asked(folder: Path, output: Path, *, resume: bool, force: bool) -> None:
    if force and not resume:
        remove_state(folder)
    statement = read_statement(folder)
    if resume and statement is None:
        raise TrainingError(f"{folder} has no state yet, so that there is nothing to resume; begin without --resume.")
    if not resume and statement is not None:
        raise TrainingError(
            f"{output} was begun already: {folder} has the state after step {statement.step}; go on with --resume, or "
            "begin anew with --force."
        )


def read_statement_or_none(folder: Path) -> object | None:
    """Whether there is something that could be resumed, however damaged."""
    try:
        return read_statement(folder)
    except TrainingError:
        return folder


def forget(folder: Path) -> None:
    """Remove the folder: the output is there."""
    shutil.rmtree(folder, ignore_errors=True)
