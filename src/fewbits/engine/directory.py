"""A model directory as the engine reads it: tensors by GGUF's names, matrices in types that the engine runs.

Plain weights are looked at where they lie. Matrices in other containers become spans when they are first asked for,
in memory that is given back once they are repacked.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import Bytes, Placement, StackedTensor, StoredTensor, Value
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.equivalents import BY_FIELDS
from fewbits.checkpoints.fields import MatrixReader, StoredMatrix
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.row_tensors import RowReader, RowTensor, rows_of
from fewbits.engine.spans import READ, Given, spans_of
from fewbits.errors import CheckpointError, EngineError
from fewbits.formats.base import Fields, is_row_format
from fewbits.formats.fp8 import ScaledFloat
from fewbits.kernels import encode_rows
from fewbits.kernels.fields import decode_fields
from fewbits.qtensor import ORDER, of_format

_READ_TWICE = ("token_embd.weight",)
"""Matrices whose rows are looked up as well, so that what they are made of has to stay."""


class DirectoryReader:
    """The tensors of a model directory, and the metadata of the GGUF file that it would become."""

    def __init__(self, path: Path, *, exact: bool) -> None:
        quantized = open_quantized(path)
        rows = None if quantized is None else _EngineRows(quantized, exact=exact)
        conversion = convert_directory(path, quantized=rows)
        architecture = Value(conversion.architecture, "string")
        self.path = path
        self.metadata: Mapping[str, Any] = {"general.architecture": architecture, **conversion.metadata}
        self._placed = {each.name: each for each in conversion.placements if not each.aside}
        self._names = list(self._placed)
        self._read: dict[str, StoredTensor] = {}
        self._orders: dict[str, tuple[int, ...]] = {}

    def leave_rows(self, names: Collection[str]) -> None:
        """Give the rows of these tensors, which nobody has read, in the directory's own order."""
        self._placed |= {name: replace(self._placed[name], order=None) for name in names if name in self._placed}

    def names(self) -> list[str]:
        """All names."""
        return self._names

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        if name in self._placed:
            placed = self._placed.pop(name)  # what it was made of is let go
            self._orders[name] = self._order(placed)
            self._read[name] = _in_memory(placed)
        if name not in self._read:
            raise CheckpointError(f"{self.path} holds no tensor {name}.")
        return self._read[name]

    def order(self, name: str) -> tuple[int, ...]:
        """Which column of its inputs each column of the matrix `name` is; nothing where each is its own."""
        self.read(name)
        return self._orders[name]

    def _order(self, placed: Placement) -> tuple[int, ...]:
        source = placed.source.in_file
        parts = source.parts if isinstance(source, StackedTensor) else (source,)
        orders = [part.order for part in parts if isinstance(part, _EngineTensor) and part.order]
        if orders and (len(parts) > 1 or placed.name in _READ_TWICE):
            raise EngineError(
                f"{self.path}: tensor {parts[0].name} has its columns in an order of their own (act-order), which the "
                "engine does for matrices of layers alone; quantize without it."
            )
        return orders[0] if orders else ()


def _in_memory(placed: Placement) -> StoredTensor:
    """The tensor as one stretch of bytes: where it lies, or put together."""
    source = placed.source
    if type(source) is StoredTensor and placed.order is None:
        return StoredTensor(placed.name, source.format, source.shape, source.buffer)
    data = placed.slab(0, source.rows)
    buffer = np.ascontiguousarray(data) if placed.name in _READ_TWICE else _given_back(data)
    return StoredTensor(placed.name, source.format, source.shape, buffer.reshape(-1))


def _given_back(data: Bytes) -> Bytes:
    """A copy in memory of its own, whose pages can be given back."""
    if not data.size:
        return data
    copy = np.frombuffer(mmap.mmap(-1, data.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    copy.reshape(data.shape)[:] = data
    return copy


# ---- quantized matrices


@dataclass(frozen=True)
class _EngineTensor(RowTensor):
    """A matrix in a type of the engine, whose rows take as many bytes as it says."""

    order: tuple[int, ...] = ()
    """Which column each of its columns is; nothing where each is its own."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(self.load().shape[1])


class _EngineRows(RowReader):
    """The tensors of a quantized directory, each matrix in a type that the engine runs."""

    def __init__(self, reader: MatrixReader, *, exact: bool) -> None:
        super().__init__(reader)
        self._exact = exact

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises EngineError where the engine does not run its format."""
        stored = self._reader.read(name)
        return _rows(stored, self.path, exact=self._exact) if isinstance(stored, StoredMatrix) else stored


def _rows(stored: StoredMatrix, path: Path, *, exact: bool) -> RowTensor:
    format = formats.get(stored.format)
    _require_plain(stored, path)
    if is_row_format(format) or (stored.format in BY_FIELDS and not stored.ordered):
        return rows_of(stored)
    rows, cols = prod(stored.shape[:-1]), stored.shape[-1]
    fields = stored.load()
    try:
        order = _order_in(fields, cols)
        made = spans_of(format, Given(of_format(fields), (rows, cols), alone=".experts." not in stored.name))
    except EngineError as error:
        raise EngineError(f"{path}: tensor {stored.name} cannot be run: {error}") from None
    if made is not None:
        return _tensor(stored, made.type, made.data, order)
    if not isinstance(format, ScaledFloat):
        raise EngineError(
            f"{path}: tensor {stored.name} is stored as {stored.format}, which the engine does not run; it runs {READ}."
        )
    own = {name: np.array(field) for name, field in of_format(fields).items()}
    numbers = decode_fields(format, own, (rows, cols))
    data = numbers.view(np.uint8)
    if exact:
        return _tensor(stored, "F32", data, order)
    return _tensor(stored, "BF16", encode_rows("BF16", data, "F32", 2 * cols).stored, order)


def _tensor(stored: StoredMatrix, type: str, data: Bytes, order: tuple[int, ...]) -> RowTensor:
    return _EngineTensor(stored.name, type, stored.shape, np.empty(0, np.uint8), lambda: data, order)


def _order_in(fields: Fields, cols: int) -> tuple[int, ...]:
    """Which column each coded one is; raises EngineError where that is no order of `cols` columns."""
    if ORDER not in fields:
        return ()
    if not np.array_equal(np.sort(fields[ORDER]), np.arange(cols)):
        raise EngineError(f"the field {ORDER} is no order of {cols} columns; the file is damaged.")
    return tuple(fields[ORDER].tolist())


_ASIDES = {
    "activation": "its inputs rounded while it runs",
    "outliers": "columns kept in 16 bits",
    "transposed": "its columns as rows (Conv1D)",
}


def _require_plain(stored: StoredMatrix, path: Path) -> None:
    """Raise EngineError where the matrix has what no product here does."""
    for field, what in _ASIDES.items():
        if getattr(stored, field):
            raise EngineError(
                f"{path}: tensor {stored.name} has {what}, which the engine does not do; quantize without it, or to a "
                "GGUF file."
            )
