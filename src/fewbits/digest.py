"""SHA-256 of files, read through a mapping so that hashing costs no memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event

from fewbits.checkpoints.mapping import map_file

_PIECE = 8 << 20


def sha256_of(path: Path, cancelled: Event | None = None) -> str:
    """The file's SHA-256 in hexadecimal; the interpreter is free for other threads while it runs.

    When `cancelled` is set it stops at once, with a result that nobody may use: a large file takes minutes.
    """
    digest = hashlib.sha256()
    if path.stat().st_size:
        data = map_file(path)
        for start in range(0, data.size, _PIECE):
            if cancelled is not None and cancelled.is_set():
                break
            digest.update(data[start : start + _PIECE].data)
    return digest.hexdigest()
