"""A quantized model directory as a reader of tensors in bytes per row, as GGUF wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.checkpoints.equivalents import BY_FIELDS
from fewbits.checkpoints.fields import MatrixReader, StoredMatrix
from fewbits.errors import CheckpointError
from fewbits.formats import Fields


def _nothing() -> Bytes:
    return np.empty((0, 0), np.uint8)


@dataclass(frozen=True)
class RowTensor(StoredTensor):
    """A matrix whose bytes per row are made of what lies on disk, all rows at a time."""

    load: Callable[[], Bytes] = _nothing

    @staticmethod
    def of(name: str, format_name: str, shape: tuple[int, ...], load: Callable[[], Bytes]) -> RowTensor:
        """The matrix `name` of a row format, whose rows `load` makes."""
        return RowTensor(name, format_name, shape, np.empty(0, np.uint8), load)

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return self.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one row."""
        return formats.row_bytes(formats.get(self.format), self.cols)

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` as stored bytes."""
        return self.load()[start:stop]


class RowReader:
    """The tensors of a quantized directory, each matrix in the GGUF type that its format is, or is the same as."""

    def __init__(self, reader: MatrixReader) -> None:
        self.path: Path = reader.path
        self.metadata: Mapping[str, Any] = reader.metadata
        self._reader = reader

    def names(self) -> list[str]:
        """All names."""
        return self._reader.names()

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError where no GGUF type holds its format."""
        stored = self._reader.read(name)
        return rows_of(stored) if isinstance(stored, StoredMatrix) else stored


def rows_of(stored: StoredMatrix) -> RowTensor:
    """`stored` as a tensor of a GGUF type; raises CheckpointError where none is its format."""
    asides = [what for what, there in _asides(stored).items() if there]
    pair = BY_FIELDS.get(stored.format)
    if asides or not (pair or stored.format in formats.ROWS):
        why = f"has {asides[0]}" if asides else f"is {stored.format}"
        raise CheckpointError(
            f"tensor {stored.name} {why}, which no GGUF type holds (of other formats {', '.join(BY_FIELDS)} do); "
            "quantize the original model to a GGUF file instead."
        )
    make: Callable[[Fields], Bytes] = pair.to_rows if pair else _data
    return RowTensor.of(stored.name, pair.rows if pair else stored.format, stored.shape, partial(_made, make, stored))


def _asides(stored: StoredMatrix) -> dict[str, bool]:
    return {
        "its inputs rounded": stored.activation is not None,
        "columns in 16 bits": stored.outliers > 0,
        "columns in an order of their own": stored.ordered,
        "its columns as rows": stored.transposed,
    }


def _made(make: Callable[[Fields], Bytes], stored: StoredMatrix) -> Bytes:
    return make(stored.load())


def _data(fields: Fields) -> Bytes:
    data: Bytes = fields["data"]
    return data
