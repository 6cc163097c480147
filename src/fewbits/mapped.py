"""Files seen as memory: each is mapped once, whoever asks, so that its pages are found once."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from weakref import WeakValueDictionary

_MAPPED: WeakValueDictionary[tuple[int, ...], mmap.mmap] = WeakValueDictionary()
"""Mappings in use, by device, inode, size and time of the last change: hashing, encoding and verifying share one."""


def mapped(path: Path) -> mmap.mmap:
    """The bytes of `path`, read-only; raises ValueError where the file is empty, OSError where it cannot be read."""
    with path.open("rb") as file:
        key = _key(file.fileno())
        found = _MAPPED.get(key)
        if found is None:
            found = _MAPPED[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return found


def let_go(path: Path) -> None:
    """Give back the pages of `path` that are in memory because somebody looked at them; a later look finds them again.

    Nothing happens where the file is not mapped, or the system has no such request.
    """
    with path.open("rb") as file:
        found = _MAPPED.get(_key(file.fileno()))
    if found is not None and hasattr(mmap, "MADV_DONTNEED"):
        found.madvise(mmap.MADV_DONTNEED)


def _key(descriptor: int) -> tuple[int, ...]:
    state = os.fstat(descriptor)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
