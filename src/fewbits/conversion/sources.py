"""What is converted: a model directory in any dialect, or a GGUF file under the names of its original directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewbits import kernels
from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.equivalents import BY_ROWS
from fewbits.checkpoints.fields import MatrixReader, StoredMatrix
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.gguf_source import GGUFMatrices
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.row_tensors import RowTensor
from fewbits.checkpoints.safetensors import open_directory
from fewbits.errors import CheckpointError
from fewbits.verification_numbers import NumbersReader, ReadNumbers


@dataclass(frozen=True)
class Source:
    """A model as matrices under the names of its network, and the same numbers as the stranger reads them."""

    given: str
    folder: Path
    """Where configuration and tokenizer lie."""
    reader: MatrixReader
    numbers: Reader
    files: tuple[Path, ...]
    dialect: str
    notes: tuple[str, ...] = ()


def directory_source(given: str, path: Path) -> Source:
    """A model directory, quantized in some dialect or not."""
    files, paths = open_directory(path)
    reader = open_quantized(path)
    names = reader.names() if reader else files.names()
    dialect = reader.dialect_name if reader else ""
    every = (path / "config.json", *paths)
    return Source(given, path, reader or files, NumbersReader(path, files, names), every, dialect)


def file_source(given: str, path: Path, like: str | Path | None) -> Source:
    """A GGUF file, under the names of the model directory `like`."""
    if like is None:
        raise CheckpointError(
            f"{path} is a GGUF file, which has no configuration of transformers'; give the model directory that it was "
            "made from with --like."
        )
    if not Path(like).is_dir():
        raise CheckpointError(f"{like} is no directory; give the model directory that {path} was made from.")
    conversion = convert_directory(Path(like))
    reader = GGUFMatrices(open_gguf(path), conversion)
    files = (path, Path(like) / "config.json")
    return Source(given, Path(like), reader, _DecodedRows(reader), files, "", reader.notes)


class _DecodedRows:
    """The matrices of a GGUF file as numbers, where another format will hold them."""

    def __init__(self, reader: GGUFMatrices) -> None:
        self.path, self.metadata, self._reader = reader.path, reader.metadata, reader

    def names(self) -> list[str]:
        """All names."""
        return self._reader.names()

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`."""
        stored = self._reader.read(name)
        if not isinstance(stored, StoredMatrix):
            return stored

        def numbers(start: int, stop: int) -> kernels.Floats:
            return kernels.decode_rows(stored.format, stored.load()["data"][start:stop], stored.shape[-1])

        if stored.format not in BY_ROWS:
            return RowTensor.of(name, stored.format, stored.shape, lambda: stored.load()["data"])
        return ReadNumbers(name, "F32", stored.shape, np.empty(0, np.uint8), numbers)
