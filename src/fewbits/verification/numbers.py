"""What a quantized model directory holds, as the stranger reads it: numbers, or the bytes of GGUF's types as they are.

A conversion is right where what was written holds exactly the numbers of what was read; this is the reading of the
latter, by the readings that verify what fewbits writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Reader, StoredTensor
from fewbits.checkpoints.fields import FieldsReader, StoredMatrix, is_fields_file
from fewbits.formats import ROWS
from fewbits.verification.dialects import Directory, Floats
from fewbits.verification.fields import Slab, read_numbers


@dataclass(frozen=True)
class ReadNumbers(StoredTensor):
    """A matrix as float32 rows that are worked out when they are asked for."""

    numbers: Callable[[int, int], Floats] = lambda start, stop: np.empty((stop - start, 0), np.float32)

    @property
    def bytes(self) -> int:
        """Bytes of all numbers."""
        return 4 * self.elements

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 4 * self.cols

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` (stop - start, bytes per row)."""
        rows: Bytes = np.ascontiguousarray(self.numbers(start, stop)).view(np.uint8)
        return rows


class NumbersReader:
    """The tensors of a quantized directory: families of formats as numbers, all else as it lies there."""

    def __init__(self, path: Path, files: Reader, names: list[str]) -> None:
        self.path = path
        self.metadata: Mapping[str, Any] = files.metadata
        self._files, self._names = files, names
        self._fields = FieldsReader(files) if is_fields_file(files) else None
        self._directory = None if self._fields else Directory.of(path, files)

    def names(self) -> list[str]:
        """Names of the model's tensors."""
        return self._names

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`."""
        if self._fields is not None:
            stored = self._fields.read(name)
            return _of_fields(stored) if isinstance(stored, StoredMatrix) else stored
        reading = self._directory.read(name) if self._directory else None
        if reading is None:
            return self._files.read(name)
        return ReadNumbers(name, "F32", reading.shape, np.empty(0, np.uint8), reading.numbers)


def _of_fields(stored: StoredMatrix) -> StoredTensor:
    fields = stored.load()
    if stored.format in ROWS:
        return StoredTensor(stored.name, stored.format, stored.shape, fields["data"].reshape(-1))
    read = partial(_numbers, stored.format, fields, stored.shape[-1])
    return ReadNumbers(stored.name, "F32", stored.shape, np.empty(0, np.uint8), read)


def _numbers(format_name: str, fields: Mapping[str, Any], cols: int, start: int, stop: int) -> Floats:
    return read_numbers(format_name, Slab(dict(fields), start, stop, cols))
