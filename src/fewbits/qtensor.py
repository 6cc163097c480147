"""A quantized matrix: codes and parameters of a format, the lingua franca between methods and containers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats.base import Bytes, Fields, Format, Params, Shapes, as_row_format
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

_INDEX, _VALUES = "outlier_index", "outlier_values"
ORDER = "column_order"
"""The field that says which column each coded one is, where groups are no neighbours (act-order): (cols,) int32."""


def outlier_shapes(rows: int, count: int) -> Shapes:
    """Field -> numpy type and shape for `count` columns of `rows` rows kept in 16 bits; none for none."""
    return {_INDEX: ("int32", (count,)), _VALUES: ("float16", (rows, count))} if count else {}


def outlier_count(fields: Fields) -> int:
    """How many columns `fields` keep in 16 bits."""
    return len(fields[_INDEX]) if _INDEX in fields else 0


def order_shapes(cols: int, *, ordered: bool) -> Shapes:
    """Field -> numpy type and shape for the order of columns, where they have one of their own."""
    return {ORDER: ("int32", (cols,))} if ordered else {}


def of_format(fields: Fields) -> Fields:
    """The fields of the format alone."""
    return {name: field for name, field in fields.items() if name not in (_INDEX, _VALUES, ORDER)}


def column_order(fields: Fields, cols: int) -> torch.Tensor | None:
    """Which column each coded one is, (cols,) int64; None where each is its own.

    Raises FormatError where that is no order of `cols` columns.
    """
    if ORDER not in fields:
        return None
    order = fields[ORDER].astype(np.int64)
    if not np.array_equal(np.sort(order), np.arange(cols)):
        raise FormatError(f"the field {ORDER} is no order of {cols} columns")
    return torch.from_numpy(order)


def kept_columns(fields: Fields, shape: tuple[int, int]) -> Outliers | None:
    """The columns of a matrix (rows, cols) that `fields` keep in 16 bits; None where there are none.

    Raises FormatError where they are none of a matrix of that shape.
    """
    return _outliers(fields, shape) if _INDEX in fields else None


def in_order(coded: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Coded columns (rows, cols), each in its place.

    >>> import torch
    >>> in_order(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2, 0, 1]))
    tensor([[2., 3., 1.]])
    """
    return coded if order is None else torch.empty_like(coded).index_copy_(1, order, coded)


@dataclass(frozen=True)
class Outliers:
    """Columns of a matrix in 16 bits, in place of what their codes say."""

    index: torch.Tensor
    """(n,) int64, ascending."""
    values: torch.Tensor
    """(rows, n) float16."""

    @property
    def bits(self) -> int:
        """16 per number, and 32 per column for its place."""
        return 16 * self.values.numel() + 32 * self.index.numel()

    def over(self, numbers: torch.Tensor) -> torch.Tensor:
        """`numbers` (rows, cols) with these columns in place of its own."""
        return numbers.index_copy(1, self.index, self.values.to(numbers))

    def fields(self) -> Fields:
        """What is stored, by name."""
        return {_INDEX: self.index.cpu().numpy().astype(np.int32), _VALUES: self.values.cpu().numpy()}


@dataclass(frozen=True)
class QTensor:
    """`codes` (rows, cols / vector) under `params`, as `format` understands them; `outliers` stand over both."""

    format: Format
    codes: torch.Tensor
    params: Params
    remarks: tuple[str, ...] = ()
    """What had to be decided on the way, a phrase each; empty in the ordinary case."""
    outliers: Outliers | None = None
    order: torch.Tensor | None = None
    """Which column each coded one is, (cols,) int64; None where each is its own."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, vectors = self.codes.shape
        return rows, vectors * self.format.vector

    def to(self, device: torch.device | str) -> QTensor:
        """The same matrix, its codes and parameters on `device`."""
        kept = self.outliers and Outliers(self.outliers.index.to(device), self.outliers.values.to(device))
        order = None if self.order is None else self.order.to(device)
        return QTensor(self.format, self.codes.to(device), self.params.to(device), self.remarks, kept, order)

    def with_outliers(self, index: torch.Tensor, values: torch.Tensor) -> QTensor:
        """The same with the columns `index` (n,) as `values` (rows, n) float16; as it is where there are none.

        >>> import torch
        >>> from fewbits import formats
        >>> w, q8 = torch.linspace(-1, 1, 32)[None], formats.get("Q8_0")
        >>> q = QTensor(q8, q8.encode(w, q8.fit(w)), q8.fit(w))
        >>> kept = q.with_outliers(torch.tensor([3]), torch.tensor([[70.0]]).half())
        >>> float(kept.dequantize()[0, 3]), kept.bits - q.bits
        (70.0, 48)
        """
        return replace(self, outliers=Outliers(index, values)) if len(index) else self

    def dequantize(self) -> torch.Tensor:
        """The numbers (rows, cols) float32 that are stored."""
        decoded = in_order(self.format.decode(self.codes, self.params), self.order)
        return self.outliers.over(decoded) if self.outliers else decoded

    @property
    def bits(self) -> int:
        """Exact storage in bits."""
        ordered = 0 if self.order is None else 32 * len(self.order)
        return self.format.bits(*self.shape) + (self.outliers.bits if self.outliers else 0) + ordered

    def fields(self) -> Fields:
        """What is stored, by name."""
        kept = self.outliers.fields() if self.outliers else {}
        ordered = {} if self.order is None else {ORDER: self.order.cpu().numpy().astype(np.int32)}
        return {**self.format.fields(self.codes, self.params), **kept, **ordered}

    @staticmethod
    def from_fields(format: Format, fields: Fields, shape: tuple[int, int]) -> QTensor:
        """The matrix (rows, cols) whose stored fields are `fields`."""
        q = QTensor(format, *format.from_fields(of_format(fields), shape))
        return replace(q, outliers=kept_columns(fields, shape), order=column_order(fields, shape[1]))

    def to_json(self) -> dict[str, Any]:
        """What has to be kept beside the fields to read them again; `formats.get` makes the format of its name."""
        return {"format": self.format.name, "shape": list(self.shape)}

    def packed(self) -> Bytes:
        """The stored bytes (rows, bytes per row); raises FormatError where there are several fields, or outliers."""
        if self.order is not None:
            raise FormatError(
                f"the columns have an order of their own beside {self.format.name}, which one string of bytes per row, "
                "as in GGUF, cannot hold; write a model directory"
            )
        if self.outliers is not None:
            raise FormatError(
                f"{self.outliers.index.numel()} columns are kept in 16 bits beside {self.format.name}, which one string"
                " of bytes per row, as in GGUF, cannot hold; write a model directory, or leave the outlier split out"
            )
        return as_row_format(self.format).pack(self.codes, self.params)

    @staticmethod
    def from_packed(format: Format, packed: Bytes, cols: int) -> QTensor:
        """The matrix whose stored bytes are `packed` (rows, bytes per row)."""
        return QTensor(format, *as_row_format(format).unpack(packed, cols))


def _outliers(fields: Fields, shape: tuple[int, int]) -> Outliers:
    """The columns that `fields` keep; raises FormatError where they are none of a matrix of `shape`."""
    index, values = fields[_INDEX], fields.get(_VALUES)
    rising = index.ndim == 1 and bool((np.diff(index) > 0).all()) and bool(((index >= 0) & (index < shape[1])).all())
    if not rising or values is None or values.shape != (shape[0], len(index)) or values.dtype != np.float16:
        raise FormatError(f"columns kept in 16 bits do not belong to a matrix of {shape[0]} x {shape[1]}")
    return Outliers(torch.from_numpy(index.astype(np.int64)), torch.from_numpy(values.copy()))
