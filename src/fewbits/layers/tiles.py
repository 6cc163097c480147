"""Products of many tokens and a stored matrix by torch's products of floats, the matrix decoded tile by tile.

A tile is as large as a cache, lies in memory that is used again, and is gone after its product: nothing of the matrix
is held as floats. Forward takes tiles of whole rows and backward tiles of whole columns, so that no sum is cut. Where a
format has no native reader of parts, slabs of rows are decoded, and backward adds up in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from threading import local
from typing import Any

import torch

from fewbits.checkpoints.fields import PLAIN
from fewbits.kernels.tiles import Read, tile_reader
from fewbits.layers.products import share_threads
from fewbits.layers.stored import StoredWeight
from fewbits.qtensor import Outliers, column_order, kept_columns, of_format

TILE = 1 << 22
"""Numbers of a tile at most: 8 MB of bfloat16. From a quarter to four times as many, a step takes as long."""
FEWEST = 64
"""Rows or columns of a tile at least."""

_NUMBERS = {"F32": torch.float32, "BF16": torch.bfloat16}
_memory = local()


@dataclass(frozen=True)
class Tiles:
    """A matrix (rows, cols) that is read in parts, and multiplied."""

    weight: StoredWeight
    read: Read | None
    """What reads parts of the coded columns; None where slabs are read."""
    order: torch.Tensor | None
    """Which column each coded one is."""
    kept: Outliers | None

    @staticmethod
    def of(weight: StoredWeight) -> Tiles:
        """Nothing is decoded yet; raises FormatError where fields do not belong to the matrix."""
        share_threads()
        read = tile_reader(weight.format, of_format(weight.fields), weight.shape)
        parts = (None, None)
        if read is not None:  # slabs have columns in order, and kept ones over the others
            order = column_order(weight.fields, weight.shape[1])
            return Tiles(weight, read, order, kept_columns(weight.fields, weight.shape))
        return Tiles(weight, read, *parts)

    @cached_property
    def plain(self) -> torch.Tensor | None:
        """The matrix itself, where it is stored as numbers that torch multiplies."""
        if self.weight.format.name not in PLAIN or self.weight.format.name not in _NUMBERS:
            return None
        data = torch.from_numpy(self.weight.fields["data"])
        return data.view(_NUMBERS[self.weight.format.name])

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Outputs (tokens, rows) for `x` (tokens, cols), float32 or bfloat16, plus `bias` (rows,), in its type."""
        if self.plain is not None and self.plain.dtype == x.dtype:
            return torch.nn.functional.linear(x, self.plain, bias)
        out = x.new_empty(len(x), self.weight.shape[0])
        coded = self._coded(x)
        for start, stop, tile in self._rows(x.dtype):
            if bias is None:
                torch.mm(coded, tile.T, out=out[:, start:stop])
            else:
                torch.addmm(bias[start:stop], coded, tile.T, out=out[:, start:stop])
        return out if self.kept is None else out.addmm_(x[:, self.kept.index], self.kept.values.to(x.dtype).T)

    def multiply_back(self, grad: torch.Tensor) -> torch.Tensor:
        """Gradients of inputs (tokens, cols) for those of outputs (tokens, rows), in their type."""
        if self.plain is not None and self.plain.dtype == grad.dtype:
            return grad @ self.plain
        if self.read is None:
            return self._summed(grad)
        out = grad.new_empty(len(grad), self.weight.shape[1])
        for start, stop, tile in self._columns(grad.dtype):
            torch.mm(grad, tile, out=out[:, start:stop])
        if self.order is not None:
            out = torch.empty_like(out).index_copy_(1, self.order, out)
        if self.kept is not None:
            out[:, self.kept.index] = grad @ self.kept.values.to(grad.dtype)
        return out

    def _coded(self, x: torch.Tensor) -> torch.Tensor:
        """What coded columns are multiplied with."""
        if self.kept is not None:
            x = x.index_fill(1, self.kept.index, 0)
        return x if self.order is None else x[:, self.order]

    def _rows(self, dtype: torch.dtype) -> Iterator[tuple[int, int, torch.Tensor]]:
        rows, cols = self.weight.shape
        if self.read is None:
            yield from ((start, stop, numbers.to(dtype)) for start, stop, numbers in self.weight.slabs())
            return
        for start, stop in _parts(rows, TILE // cols, FEWEST):
            yield start, stop, self._tile((start, 0), (stop - start, cols), dtype)

    def _columns(self, dtype: torch.dtype) -> Iterator[tuple[int, int, torch.Tensor]]:
        rows, cols = self.weight.shape
        span = self.weight.format.span or FEWEST
        for start, stop in _parts(cols, TILE // rows, lcm(span, FEWEST)):
            yield start, stop, self._tile((0, start), (rows, stop - start), dtype)

    def _tile(self, first: tuple[int, int], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        assert self.read is not None, "slabs are read otherwise"
        tile = _reused(dtype, shape[0] * shape[1]).view(shape)
        self.read(first, tile, torch.get_num_threads())
        return tile

    def _summed(self, grad: torch.Tensor) -> torch.Tensor:
        out = grad.new_zeros(len(grad), self.weight.shape[1], dtype=torch.float32)
        for start, stop, numbers in self.weight.slabs():
            out += grad[:, start:stop] @ numbers.to(grad)
        return out.to(grad.dtype)


def _parts(count: int, most: int, unit: int) -> Iterator[tuple[int, int]]:
    """First and last of parts of `count`, each a multiple of `unit` that is not above `most`, or one unit.

    >>> list(_parts(700, 300, 128))
    [(0, 256), (256, 512), (512, 700)]
    """
    step = max(most // unit, 1) * unit
    yield from ((start, min(start + step, count)) for start in range(0, count, step))


def _reused(dtype: torch.dtype, count: int) -> torch.Tensor:
    """`count` numbers of memory that this thread uses for one tile after another."""
    held: dict[Any, torch.Tensor] = vars(_memory).setdefault("tiles", {})
    if dtype not in held or held[dtype].numel() < count:
        held[dtype] = torch.empty(max(count, TILE) if count > TILE // 4 else count, dtype=dtype)
    return held[dtype][:count]
