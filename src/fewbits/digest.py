"""SHA-256 of files, read through a mapping so that hashing costs no memory."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

_PIECE = 8 << 20


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; the interpreter is free for other threads while it runs."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                for start in range(0, len(view), _PIECE):
                    with view[start : start + _PIECE] as piece:
                        digest.update(piece)
    return digest.hexdigest()
