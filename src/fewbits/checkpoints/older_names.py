"""Names of 2018 in checkpoints that are still read: the gain and the shift of a norm were called gamma and beta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.safetensors import open_directory

_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def open_weights(path: Path, *, pickles: bool = False) -> tuple[Reader, tuple[Path, ...]]:
    """The checkpoint in directory `path` by today's names, and its files; CheckpointError when there is none.

    `pickles` allows PyTorch's own weights.
    """
    reader, files = open_directory(path, pickles=pickles)
    older = {today(name): name for name in reader.names() if today(name) != name}
    return (_RenamedReader(reader, older) if older else reader), files


def today(name: str) -> str:
    """What a tensor is called today.

    >>> today("embeddings.LayerNorm.gamma"), today("embeddings.LayerNorm.bias")
    ('embeddings.LayerNorm.weight', 'embeddings.LayerNorm.bias')
    """
    for older, newer in _ENDINGS.items():
        if name.endswith(older):
            return name.removesuffix(older) + newer
    return name


class _RenamedReader:
    """A reader under today's names."""

    def __init__(self, reader: Reader, older: Mapping[str, str]) -> None:
        self.path = reader.path
        self.metadata: Mapping[str, Any] = reader.metadata
        self._reader, self._older = reader, older

    def names(self) -> list[str]:
        """Tensor names in file order."""
        return [today(name) for name in self._reader.names()]

    def read(self, name: str) -> StoredTensor:
        """The tensor that is called `name` today; raises CheckpointError when there is none."""
        return replace(self._reader.read(self._older.get(name, name)), name=name)
