"""A stored matrix outside of its module: its numbers slab by slab, and what it is to products of packed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from fewbits import formats, kernels
from fewbits.checkpoints.equivalents import BY_FIELDS
from fewbits.checkpoints.fields import PLAIN
from fewbits.engine.spans import Given, Spans, spans_of
from fewbits.errors import EngineError
from fewbits.formats import Fields, is_row_format
from fewbits.formats.base import Format, Shape
from fewbits.kernels.module import native_module
from fewbits.kernels.stored import stored_numbers
from fewbits.qtensor import column_order, in_order, kept_columns, of_format

SLAB = 1 << 22
"""Numbers that are decoded at a time."""


@dataclass(frozen=True)
class Form:
    """What products make of matrices of a format."""

    packed: bool
    """Whether codes are multiplied as they are, in whole numbers."""
    why: str = ""
    """What is done instead."""

    @property
    def words(self) -> str:
        """What is done, for people."""
        return "packed" if self.packed else self.why


@dataclass(frozen=True)
class StoredWeight:
    """A matrix of `shape` as the stored fields of a format."""

    format: Format
    shape: Shape
    fields: Fields

    @staticmethod
    def of(format_name: str, shape: Shape, fields: dict[str, torch.Tensor]) -> StoredWeight:
        """The matrix that these tensors store; nothing is copied where they lie on the CPU."""
        return StoredWeight(formats.get(format_name), shape, as_stored(format_name, shape, fields))

    @property
    def apart(self) -> bool:
        """Whether each row has its own line of every field."""
        rows, cols = self.shape
        counts = [[shape[0] for _, shape in self.format.shapes(n, cols).values()] for n in (rows, rows + 1)]
        plain = set(self.fields) == set(of_format(self.fields))
        return plain and counts == [[n] * len(self.fields) for n in (rows, rows + 1)]

    def slabs(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """First row, the one behind the last, and the numbers (rows, cols) float32 of one slab after another."""
        rows, cols = self.shape
        step = max(1, SLAB // cols // max(self.format.rows, 64)) * max(self.format.rows, 64)
        read = self._apart if self.apart else self._together()
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield start, stop, read(start, stop)

    def _apart(self, start: int, stop: int) -> torch.Tensor:
        fields = {name: field[start:stop] for name, field in self.fields.items()}
        return stored_numbers(self.format, fields, (stop - start, self.shape[1]))

    def _together(self) -> Callable[[int, int], torch.Tensor]:
        """Where rows share something: codes are unpacked once, numbers made slab by slab."""
        own = {name: np.array(field) for name, field in of_format(self.fields).items()}
        codes, params = self.format.from_fields(own, self.shape)
        order, kept = column_order(self.fields, self.shape[1]), kept_columns(self.fields, self.shape)

        def read(start: int, stop: int) -> torch.Tensor:
            numbers = in_order(self.format.decode(codes[start:stop], params.slice(start, stop)), order)
            return numbers if kept is None else numbers.index_copy(1, kept.index, kept.values[start:stop].to(numbers))

        return read

    def packed_rows(self) -> Spans | None:
        """The coded columns as rows of a type that products pack; None where none does."""
        if not form_of(self.format.name, self.shape[1]).packed:
            return None
        return _rows(self.format, of_format(self.fields), self.shape)


def as_stored(format_name: str, shape: Shape, fields: dict[str, torch.Tensor]) -> Fields:
    """Buffers as the arrays that lie on disk; nothing is copied where they lie on the CPU."""
    kinds = {name: np.dtype(kind) for name, (kind, _) in formats.get(format_name).shapes(*shape).items()}
    arrays = {name: field.detach().cpu().contiguous().numpy() for name, field in fields.items()}
    return {name: array.view(kinds.get(name, array.dtype)) for name, array in arrays.items()}


def _rows(format: Format, fields: Fields, shape: Shape) -> Spans | None:
    if is_row_format(format):
        kernels.give_points(format.name)
        return Spans(format.name, np.ascontiguousarray(fields["data"]))
    if pair := BY_FIELDS.get(format.name):
        return Spans(pair.rows, pair.to_rows(fields))
    return spans_of(format, Given(fields, shape, alone=True))


@cache
def form_of(format_name: str, cols: int) -> Form:
    """What products make of rows of `cols` columns.

    >>> form_of("Q4_K", 512).words, form_of("int8_row_sym", 512).words, form_of("BF16", 512).words
    ('packed', 'packed', 'plain BF16 numbers')
    >>> form_of("int8_row_sym", 48).words
    'decoded: groups of 48 of 48 columns (int8_row_sym) do not fill spans of 32 columns'
    """
    format = formats.get(format_name)
    if format_name in PLAIN:
        return Form(packed=False, why=f"plain {format_name} numbers")
    if is_row_format(format) and format_name in native_module().packed_types():
        return Form(packed=True)
    unknown = Form(packed=False, why=f"decoded: no product packs {format_name}")
    if is_row_format(format):
        return unknown
    rows = max(format.rows, 1)
    ones = {name: np.ones(shape, kind) for name, (kind, shape) in format.shapes(rows, cols).items()}
    try:
        return Form(packed=True) if _rows(format, ones, (rows, cols)) else unknown
    except EngineError as error:
        return Form(packed=False, why="decoded: " + str(error).partition(";")[0])
