"""A quantized matrix: codes and parameters of a format, the lingua franca between methods and containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Bytes, Fields, Format, Params, as_row_format

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class QTensor:
    """`codes` (rows, cols / vector) under `params`, as `format` understands them."""

    format: Format
    codes: torch.Tensor
    params: Params
    remarks: tuple[str, ...] = ()
    """What had to be decided on the way, a phrase each; empty in the ordinary case."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, vectors = self.codes.shape
        return rows, vectors * self.format.vector

    def to(self, device: torch.device | str) -> QTensor:
        """The same matrix, its codes and parameters on `device`."""
        return QTensor(self.format, self.codes.to(device), self.params.to(device), self.remarks)

    def dequantize(self) -> torch.Tensor:
        """The numbers (rows, cols) float32 that are stored."""
        return self.format.decode(self.codes, self.params)

    @property
    def bits(self) -> int:
        """Exact storage in bits."""
        return self.format.bits(*self.shape)

    def fields(self) -> Fields:
        """What is stored, by name."""
        return self.format.fields(self.codes, self.params)

    @staticmethod
    def from_fields(format: Format, fields: Fields, shape: tuple[int, int]) -> QTensor:
        """The matrix (rows, cols) whose stored fields are `fields`."""
        return QTensor(format, *format.from_fields(fields, shape))

    def to_json(self) -> dict[str, Any]:
        """What has to be kept beside the fields to read them again; `formats.get` makes the format of its name."""
        return {"format": self.format.name, "shape": list(self.shape)}

    def packed(self) -> Bytes:
        """The stored bytes (rows, bytes per row); raises FormatError when the format has several fields."""
        return as_row_format(self.format).pack(self.codes, self.params)

    @staticmethod
    def from_packed(format: Format, packed: Bytes, cols: int) -> QTensor:
        """The matrix whose stored bytes are `packed` (rows, bytes per row)."""
        return QTensor(format, *as_row_format(format).unpack(packed, cols))
