"""What a written file holds, to compare two of them."""

from __future__ import annotations

from pathlib import Path

from fewbits.checkpoints.gguf_parts import open_gguf


def stored_bytes(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a GGUF file with all its parts, by name."""
    reader = open_gguf(path)
    return {name: reader.read(name).buffer.tobytes() for name in reader.names()}
