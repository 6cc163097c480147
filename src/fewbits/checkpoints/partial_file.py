"""A file, or a directory, that grows under another name until it is complete: space is reserved first.

The name is always the same, so that whatever a killed run leaves behind is replaced by the next one. Bytes may arrive
in any order and from several threads; they are sent to the disk while the next ones are computed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fewbits.checkpoints.base import Bytes
from fewbits.errors import CheckpointError
from fewbits.locking import lock

FLUSH_EVERY = 64 << 20
"""Bytes after which what was written is sent to the disk, while the next rows are computed."""


def partial_path(output: Path) -> Path:
    """Where `output` grows until it is complete and verified."""
    return output.with_name(f".{output.name}.partial")


def remove_abandoned(output: Path) -> None:
    """Remove what a killed run left of `output`, unless a run is at work on it."""
    path = partial_path(output)
    with contextlib.suppress(OSError), path.open("rb") as file:
        if lock(file.fileno()):
            path.unlink()


class PartialFile:
    """`size` bytes at `path`, which belong to the coming file `output`; locked against a second run.

    An interrupt may come between any two instructions, also where no `with` or `try` holds the file yet: a file that
    nobody holds any more is forgotten like a discarded one, at the latest when the program ends.
    """

    def __init__(self, path: Path, output: Path, size: int) -> None:
        self.path = path
        self.output = output
        self._unflushed = 0
        self._flushing: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="fewbits-flush")
        self._open: list[int] = []
        self._forget = weakref.finalize(self, _forget, path, self._open)
        # Opened and noted down in one instruction, with no place for an interrupt between the two.
        self._open.extend(map(os.open, [path], [os.O_RDWR | os.O_CREAT], [0o666]))
        try:
            _require_lock(self._open, output)
            os.ftruncate(self._file, 0)
            self._reserve(size)
        except BaseException:
            self.discard()
            raise

    @property
    def _file(self) -> int:
        return self._open[0]

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
        _close(self._open)

    def discard(self) -> None:
        """Forget the file unless it was closed; safe to call twice."""
        _remove(self.path, self._open)
        self.close()


class PartialDirectory:
    """An empty directory at `path`, which is to become `output`; locked against a second run, forgotten like a file."""

    def __init__(self, path: Path, output: Path) -> None:
        self.path = path
        self._open: list[int] = []
        self._forget = weakref.finalize(self, _forget_directory, path, self._open)
        path.mkdir(exist_ok=True)
        if _opens_directory(path, self._open):
            _require_lock(self._open, output)
        for left in path.iterdir():  # by a run that was killed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def close(self) -> None:
        """Let go of the directory, which has got its own name; safe to call twice."""
        self._forget.detach()
        _close(self._open)

    def discard(self) -> None:
        """Remove the directory unless it was closed; safe to call twice."""
        if self._forget.alive:
            _forget_directory(self.path, self._open)
            self._forget.detach()


def _require_lock(descriptors: list[int], output: Path) -> None:
    """Lock what is open; CheckpointError where another run has it, of which nothing is open then."""
    if not lock(descriptors[0]):
        _close(descriptors)
        raise CheckpointError(
            f"{output} is being written by another run of fewbits; wait for it or choose another output."
        )


def _forget(path: Path, descriptors: list[int]) -> None:
    _remove(path, descriptors)
    _close(descriptors)


def _forget_directory(path: Path, descriptors: list[int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not (descriptors or _opens_directory(path, descriptors)) or lock(descriptors[0]):
            shutil.rmtree(path, ignore_errors=True)
    _close(descriptors)


def _opens_directory(path: Path, descriptors: list[int]) -> bool:
    """Whether the system opens directories, so that they can be locked; Windows does not."""
    if hasattr(os, "O_DIRECTORY"):
        descriptors.extend(map(os.open, [path], [os.O_RDONLY | os.O_DIRECTORY]))
    return bool(descriptors)


def _remove(path: Path, descriptors: list[int]) -> None:
    """Remove the file while it is open; never another run's."""
    if descriptors and lock(descriptors[0]):
        path.unlink(missing_ok=True)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` last through a power cut."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
