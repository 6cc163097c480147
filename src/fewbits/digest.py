"""SHA-256 of files, read through a mapping so that hashing costs no memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from fewbits.mapped import mapped
from fewbits.workers import Workers

_PIECE = 64 << 20
"""Bytes between two looks at `cancelled`, each of which may wait for the interpreter: a few hundredths of a second."""


def sha256_of(path: Path, cancelled: Event | None = None) -> str:
    """The file's SHA-256 in hexadecimal; the interpreter is free for other threads while it runs.

    When `cancelled` is set it stops soon, with a result that nobody may use: a large file takes minutes.
    """
    return sha256_of_parts((path,), cancelled).whole


@dataclass(frozen=True)
class OutputDigest:
    """SHA-256 of an output in hexadecimal: of all its bytes, and of each file where they are several."""

    whole: str
    parts: tuple[str, ...] = ()


def sha256_of_parts(paths: Sequence[Path], cancelled: Event | None = None) -> OutputDigest:
    """The SHA-256 of the files in `paths` one after another, as if they were one, and of each."""
    whole, parts = hashlib.sha256(), []
    for path in paths:
        digest = hashlib.sha256()
        for piece in _pieces(path, cancelled):
            digest.update(piece)
            if len(paths) > 1:
                whole.update(piece)
        parts.append(digest.hexdigest())
    return OutputDigest(whole.hexdigest(), tuple(parts)) if len(paths) > 1 else OutputDigest(parts[0])


def _pieces(path: Path, cancelled: Event | None) -> Iterator[memoryview]:
    """The bytes of a file, until `cancelled` is set."""
    data = memoryview(mapped(path)) if path.stat().st_size else memoryview(b"")
    for start in range(0, len(data), _PIECE):
        if cancelled is not None and cancelled.is_set():
            return
        yield data[start : start + _PIECE]


class Digests:
    """SHA-256 of files by `workers`, each begun once: hashing is a third of the work and waits for nothing.

    At most half of the workers hash, so that the others write meanwhile: one file is written by one at a time.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._begun: dict[str, Future[str]] = {}
        self._waiting: deque[tuple[Path, Future[str]]] = deque()
        self._hashing = 0
        self._lock = Lock()

    def begin(self, path: Path) -> Future[str]:
        """Hash `path` beside everything else, unless that has begun already."""
        if str(path) not in self._begun:
            found = self._begun[str(path)] = Future()
            with self._lock:
                self._waiting.append((path, found))
                if self._hashing < max(1, self._workers.threads // 2):
                    self._hashing += 1
                    self._workers.submit(self._hash)
        return self._begun[str(path)]

    def _hash(self) -> None:
        """Hash files as long as some are waiting."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._hashing -= 1
                    return
                path, found = self._waiting.popleft()
            try:
                found.set_result(sha256_of(path, self._workers.cancelled))
            except Exception as e:  # whoever asks for the result gets it
                found.set_exception(e)

    def of(self, paths: Iterable[Path]) -> dict[str, str]:
        """Path -> SHA-256 in hexadecimal; waits for those that are not ready."""
        return {str(path): self.begin(path).result() for path in paths}
