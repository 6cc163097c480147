"""Multimodal projectors: GGUF files that turn pictures or sound into what a language model reads, one beside it each.

llama.cpp calls them mmproj: `general.type` says so, or in older files the architecture, "clip". A projector is a file
of its own, which a language model's conversion neither needs nor changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.errors import CheckpointError


def is_projector(metadata: Mapping[str, Value]) -> bool:
    """Whether a file with this metadata is a projector."""
    stated = {key: metadata[key].value for key in ("general.type", "general.architecture") if key in metadata}
    return stated.get("general.type") == "mmproj" or stated.get("general.architecture") == "clip"


def projectors_in(folder: Path) -> tuple[Path, ...]:
    """The projectors in `folder`: GGUF files with mmproj in their names, as llama.cpp looks for them, that are some."""
    named = sorted(each for each in folder.glob("*.gguf") if "mmproj" in each.name.lower() and each.is_file())
    return tuple(each for each in named if _says_so(each))


def _says_so(path: Path) -> bool:
    try:
        return is_projector(GGUFReader(path).metadata)
    except CheckpointError:  # what is damaged and was not asked for concerns nobody
        return False
