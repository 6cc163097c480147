"""Whether a model's files are still those that were opened: their pages are read as long as the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import EngineError


@dataclass(frozen=True)
class Stamp:
    """Sizes, times of change and identities of files when they were opened."""

    seen: Mapping[Path, tuple[int, int, int]]

    @staticmethod
    def of(path: Path) -> Stamp:
        """The stamp of a file, or of the files of weights in a directory."""
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        return Stamp({file: _state(file) for file in files})

    def require_same(self) -> None:
        """Raise EngineError where a file was written to; one that was removed or replaced is still mapped."""
        for file, before in self.seen.items():
            try:
                now = _state(file)
            except OSError:
                continue
            if now[2] == before[2] and now != before:
                raise EngineError(f"{file}: the file was changed while the model was in use; load the model again.")


def _state(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
