"""A file that grows under another name until it is complete: space is reserved first.

The name is always the same, so that whatever a killed run leaves behind is replaced by the next one. Bytes may arrive
in any order and from several threads; they are sent to the disk while the next ones are computed.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fewbits.checkpoints.base import Bytes
from fewbits.errors import CheckpointError

FLUSH_EVERY = 64 << 20
"""Bytes after which what was written is sent to the disk, while the next rows are computed."""


def partial_path(output: Path) -> Path:
    """Where `output` grows until it is complete and verified."""
    return output.with_name(f".{output.name}.partial")


def remove_abandoned(output: Path) -> None:
    """Remove what a killed run left of `output`, unless a run is at work on it."""
    path = partial_path(output)
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on Windows
        return
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


class PartialFile:
    """`size` bytes at `path`, which belong to the coming file `output`; locked against a second run."""

    def __init__(self, path: Path, output: Path, size: int) -> None:
        self.path = path
        self.output = output
        self._unflushed = 0
        self._flushing: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="fewbits-flush")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            os.ftruncate(self._file, 0)
            self._reserve(size)
        except BaseException:
            self.discard()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # pragma: no cover - not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(self._file)
            self._file = -1
            raise CheckpointError(
                f"{self.output} is being written by another run of fewbits; wait for it or choose another output."
            ) from e

    def _reserve(self, size: int) -> None:
        """Take the disk space now: a full disk is found before hours of work, not after."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, size)
        else:  # pragma: no cover - macOS and Windows reserve while writing
            os.ftruncate(self._file, size)

    def write(self, data: Bytes | bytes, position: int) -> None:
        """Put `data` at byte `position`."""
        view = memoryview(data if isinstance(data, bytes) else np.ascontiguousarray(data).data).cast("B")
        self._unflushed += len(view)
        while view:
            done = os.pwrite(self._file, view, position)
            view, position = view[done:], position + done
        if self._unflushed >= FLUSH_EVERY and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._flushing = self._flusher.submit(os.fsync, self._file)

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        self._flushing = self._flusher.submit(os.fsync, self._file)

    def sync(self) -> None:
        """Wait until every byte is on the disk."""
        if self._flushing is not None:
            self._flushing.result()
        self._flusher.submit(os.fsync, self._file).result()

    def close(self) -> None:
        """Stop writing; safe to call twice."""
        self._flusher.shutdown(wait=True, cancel_futures=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Forget the file unless it was closed; safe to call twice."""
        if self._file >= 0:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        self.close()


def sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` last through a power cut."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
