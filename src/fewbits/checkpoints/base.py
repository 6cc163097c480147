"""What a checkpoint is to the rest of the house: named tensors mapped from disk, and where each goes.

A container (safetensors, GGUF) is read through `Reader`. What a source becomes as a GGUF file is a `Conversion`:
metadata, and one `Placement` per target tensor that names its source and the order of its rows. Both are built from
headers alone: no weight is touched until the pipeline asks for a slab of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Order = npt.NDArray[np.int64]

WEIGHT_TYPES = ("F32", "F16", "BF16")
"""What a weight may be stored in before it is quantized."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies on disk: `buffer` is a mapped view, so holding it costs no memory.

    `format` is a name of the format registry ("BF16", "Q4_K"). `shape` is in numpy's order: (rows, cols) for a matrix.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    buffer: Bytes

    @property
    def rows(self) -> int:
        """Rows of the matrix view; a vector is a column, so that its elements can be reordered like rows.

        One whose elements have no bytes of their own, because its format stores spans of them, is a row.
        """
        return prod(self.shape[:-1]) if len(self.shape) > 1 or not self._is_column else prod(self.shape)

    @property
    def cols(self) -> int:
        """Columns of the matrix view: the reduction of a linear layer, 1 for a vector."""
        return self.shape[-1] if len(self.shape) > 1 or not self._is_column else 1

    @property
    def _is_column(self) -> bool:
        elements = prod(self.shape)
        return elements == 0 or self.buffer.size % elements == 0

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return int(self.buffer.size)

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one row."""
        return self.buffer.size // self.rows if self.rows else 0

    @property
    def in_file(self) -> StoredTensor:
        """The tensor as its file has it: itself, where nothing is worked out of it."""
        return self

    def behind(self, rows: int) -> StoredTensor:
        """The matrix without its first `rows` rows; a view."""
        shape = (self.shape[0] - rows, *self.shape[1:])
        return StoredTensor(self.name, self.format, shape, self.buffer[rows * self.row_bytes :])

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` as stored bytes, (stop - start, bytes per row), without a copy."""
        width = self.row_bytes
        return self.buffer[start * width : stop * width].reshape(stop - start, width)


@dataclass(frozen=True)
class StackedTensor(StoredTensor):
    """Matrices of one shape and format, one per expert, that a checkpoint lists and the target holds as one tensor.

    `shape` is (experts, rows, cols); the rows of expert e are those from e * rows on.
    """

    parts: tuple[StoredTensor, ...] = ()

    @staticmethod
    def of(name: str, parts: Sequence[StoredTensor]) -> StackedTensor:
        """`parts` in their order, under one name."""
        first = parts[0]
        return StackedTensor(name, first.format, (len(parts), *first.shape), first.buffer[:0], tuple(parts))

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(part.bytes for part in self.parts)

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one row."""
        return self.parts[0].row_bytes

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` as stored bytes; a view where one expert has them all, a copy otherwise."""
        rows = self.parts[0].rows
        first, last = start // rows, -(-stop // rows)
        pieces = [self.parts[n].slab(max(start - n * rows, 0), min(stop - n * rows, rows)) for n in range(first, last)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.row_bytes), np.uint8), *pieces])


@dataclass(frozen=True)
class Placement:
    """Where one tensor of the target comes from.

    Row r of the target is row `order[r]` of the source (None: the same row). `computed` marks tensors that no file
    holds (RoPE frequency factors), which are made from the configuration; `aside` those that only a directory holds
    (the pooler or the head of an encoder), as they are.
    """

    name: str
    source: StoredTensor
    order: Order | None = None
    computed: bool = False
    aside: bool = False
    whole: StoredTensor | None = None
    """The source's tensor, where a GGUF file leaves out its first rows; a directory has them all."""

    def slab(self, start: int, stop: int) -> Bytes:
        """Target rows `start` to `stop` as source bytes; a view, or a copy of one slab when rows are reordered."""
        if self.order is None:
            return self.source.slab(start, stop)
        rows: Bytes = self.source.slab(0, self.source.rows)[self.order[start:stop]]
        return rows


@dataclass(frozen=True)
class Value:
    """One metadata value with its GGUF type ("uint32", "float32", "bool", "string", or "array:" + element type)."""

    value: Any
    type: str


@dataclass(frozen=True)
class Conversion:
    """A source seen as the GGUF file it will become: everything except the choice of formats."""

    architecture: str
    metadata: Mapping[str, Value]
    placements: tuple[Placement, ...]
    files: tuple[Path, ...]
    """The files whose bytes the result depends on, configuration and tokenizer included."""
    notes: tuple[str, ...] = field(default=())
    """Choices made for the user and tensors left out, one sentence each; printed and recorded."""
    left_out: tuple[str, ...] = field(default=())
    """Those notes that name tensors of the source which the target does not have, whatever its container."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the source's config.json that have to say something else in the target."""
    projectors: tuple[Path, ...] = ()
    """Multimodal projectors that lie beside the source and are no part of it."""
    carried: int = 0
    """Bytes of tensors that come along as they are, beside the placements."""


class Reader(Protocol):
    """An opened container whose header was checked once, completely, before any tensor is read."""

    path: Path
    metadata: Mapping[str, Any]

    def names(self) -> list[str]:
        """Tensor names in file order."""

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
