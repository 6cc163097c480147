"""Files that one run of the program holds, so that a second one does not write where the first one does."""

from __future__ import annotations

import os
from pathlib import Path


def lock(descriptor: int) -> bool:
    """Lock the open file against other runs until it is closed; False where one has it. Who has it gets it again."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lock_folder(folder: Path) -> int | None:
    """The open file whose lock is that of `folder`, to be closed by who gets it; None where another run has it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     held = lock_folder(Path(name))
    ...     held is not None, lock_folder(Path(name))
    ...     os.close(held)
    (True, None)
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    if lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


LOCK = "lock"
"""The file in a folder that is locked."""
