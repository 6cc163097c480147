"""What is converted: a model directory in any dialect, or a GGUF file under the names of its original directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewbits import kernels
from fewbits.checkpoints.base import Order, Reader, StackedTensor, StoredTensor
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import MatrixReader
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.gguf_source import GGUFMatrices
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.safetensors import open_directory
from fewbits.errors import CheckpointError
from fewbits.verification.numbers import NumbersReader, ReadNumbers
from fewbits.verification.sources import expect_directory


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
    file = open_gguf(path)
    reader = GGUFMatrices(file, conversion)
    files = (path, Path(like) / "config.json")
    return Source(given, Path(like), reader, _FileNumbers(file, Path(like)), files, "", reader.notes)


class _FileNumbers:
    """The matrices of a GGUF file as numbers, rows where the facts of the architecture say that they belong.

    It shares neither names nor orders with the reader whose tensors are written.
    """

    def __init__(self, file: Reader, folder: Path) -> None:
        self.path, self.metadata = file.path, file.metadata
        self._rows: dict[str, StoredTensor] = {}
        for target, origin in expect_directory(folder, file).items():
            stored, source = file.read(target), origin.source
            back = None if origin.order is None else np.argsort(origin.order)
            first = 0
            for part in source.parts if isinstance(source, StackedTensor) else (source,):
                self._rows[part.name] = _numbers(part, stored, back, first)
                first += part.rows

    def names(self) -> list[str]:
        """All names."""
        return list(self._rows)

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`."""
        return self._rows[name]


def _numbers(part: StoredTensor, stored: StoredTensor, back: Order | None, first: int) -> StoredTensor:
    """`part` of the directory as float32 rows, which are the rows `first` and on of `stored`, or those at `back`."""

    def numbers(start: int, stop: int) -> kernels.Floats:
        if back is None:
            rows = stored.slab(first + start, first + stop)
        else:
            rows = stored.slab(0, stored.rows)[back[start:stop]]
        return kernels.decode_rows(stored.format, rows, part.cols)

    return ReadNumbers(part.name, "F32", part.shape, np.empty(0, np.uint8), numbers)
