"""Tensors that a file does not hold as the target wants them, worked out slab by slab from one that it does hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.models import View

Floats = npt.NDArray[np.float32]

_NUMBERS: Mapping[str, Callable[[Bytes], Floats]] = MappingProxyType(
    {
        "F32": lambda raw: raw.view("<f4"),
        "F16": lambda raw: raw.view("<f2").astype(np.float32),
        "BF16": lambda raw: (raw.view("<u2").astype(np.uint32) << 16).view(np.float32),
    }
)


@dataclass(frozen=True)
class DerivedTensor(StoredTensor):
    """What is made of `own`, a tensor of a file; its own buffer is empty."""

    own: Any = None

    @property
    def bytes(self) -> int:
        """Stored bytes of what it is made of."""
        return int(self.own.bytes)

    @property
    def in_file(self) -> StoredTensor:
        """The tensor as the file has it."""
        found: StoredTensor = self.own
        return found


@dataclass(frozen=True)
class TransposedTensor(DerivedTensor):
    """The matrix `own` with its columns as rows: Conv1D keeps (inputs, outputs) where others keep (outputs, inputs)."""

    @staticmethod
    def of(own: StoredTensor) -> TransposedTensor:
        """`own`, (cols, rows), as (rows, cols)."""
        return TransposedTensor(own.name, own.format, own.shape[::-1], own.buffer[:0], own)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        width: int = self.own.row_bytes // self.own.cols
        return width * self.cols

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop`, copied together from all rows of `own`."""
        width = self.own.row_bytes // self.own.cols
        numbers = self.own.slab(0, self.own.rows).reshape(self.own.rows, self.own.cols, width)
        found: Bytes = np.ascontiguousarray(numbers[:, start:stop].swapaxes(0, 1)).reshape(stop - start, self.row_bytes)
        return found


@dataclass(frozen=True)
class ReshapedTensor(DerivedTensor):
    """The numbers of `own` in another shape."""

    @staticmethod
    def of(own: StoredTensor, shape: tuple[int, ...]) -> ReshapedTensor:
        """`own` in `shape`."""
        return ReshapedTensor(own.name, own.format, shape, own.buffer, own)


@dataclass(frozen=True)
class ShiftedTensor(DerivedTensor):
    """The numbers of `own` plus `add`, in float32: Gemma multiplies by 1 + w where others multiply by w."""

    add: float = 0.0

    @staticmethod
    def of(own: StoredTensor, add: float) -> ShiftedTensor:
        """`own` plus `add`."""
        return ShiftedTensor(own.name, "F32", own.shape, own.buffer[:0], own, add)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 4 * self.cols

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` as bytes of float32."""
        raw = np.ascontiguousarray(self.own.slab(start, stop))
        numbers = _NUMBERS[self.own.format](raw) + np.float32(self.add)
        found: Bytes = np.ascontiguousarray(numbers).view(np.uint8).reshape(stop - start, self.row_bytes)
        return found


@dataclass(frozen=True)
class PartTensor(DerivedTensor):
    """What `view` takes of `own`: matrices one behind another, each of part of the rows or columns, or turned."""

    view: View = field(default_factory=lambda: View((), ()))

    @staticmethod
    def of(own: StoredTensor, view: View) -> PartTensor:
        """`own` as `view` sees it."""
        return PartTensor(own.name, own.format, view.taken, own.buffer[:0], own, view)

    @property
    def bytes(self) -> int:
        """Stored bytes of what is taken."""
        return int(self.own.bytes * self.view.share)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        if not self.view.turned and self._whole_rows:
            return int(self.own.row_bytes)
        width: int = self.own.row_bytes // self.own.cols
        return width * self.cols

    @property
    def _whole_rows(self) -> bool:
        return self.view.picks[-1] == slice(0, self.view.shape[-1])

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop` as stored bytes, copied together."""
        if self.view.turned:
            return self._turned(start, stop)
        rows = self._own_rows(start, stop)
        if not len(rows):
            return np.empty((0, self.row_bytes), np.uint8)
        first = int(rows[0])
        whole: Bytes = self.own.slab(first, int(rows[-1]) + 1)[rows - first]
        if self._whole_rows:
            return whole
        numbers = whole.reshape(len(rows), self.own.cols, -1)[:, self.view.picks[-1]]
        return np.ascontiguousarray(numbers).reshape(len(rows), self.row_bytes)

    def _own_rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Row of `own` of each row from `start` to `stop`."""
        number, row = np.divmod(np.arange(start, stop, dtype=np.int64), self.shape[-2])
        size, pick = self.view.shape[-2], self.view.picks[-2]
        lines: npt.NDArray[np.int64] = number * size + pick.start + row * (pick.step or 1)
        return lines

    def _turned(self, start: int, stop: int) -> Bytes:
        """Columns of each matrix of the stack as rows."""
        _, rows, cols = self.view.shape
        each, pieces = self.shape[-2], []
        for number in range(start // each, -(-stop // each)):
            whole = self.own.slab(number * rows, (number + 1) * rows).reshape(rows, cols, -1)
            lines = whole[self.view.picks[1]][:, self.view.picks[2]]
            part = lines[:, max(start - number * each, 0) : stop - number * each]
            pieces.append(np.ascontiguousarray(part.swapaxes(0, 1)).reshape(part.shape[1], self.row_bytes))
        return np.concatenate([np.empty((0, self.row_bytes), np.uint8), *pieces])
