"""A quantized matrix: codes and parameters of a format, the lingua franca between methods and containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Bytes, Format, Params

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class QTensor:
    """`codes` (rows, cols) under `params`, as `format` understands them."""

    format: Format
    codes: torch.Tensor
    params: Params

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, cols = self.codes.shape
        return rows, cols

    def dequantize(self) -> torch.Tensor:
        """The numbers (rows, cols) float32 that are stored."""
        return self.format.decode(self.codes, self.params)

    def packed(self) -> Bytes:
        """The stored bytes (rows, bytes per row)."""
        return self.format.pack(self.codes, self.params)

    @staticmethod
    def from_packed(format: Format, packed: Bytes, cols: int) -> QTensor:
        """The matrix whose stored bytes are `packed` (rows, bytes per row)."""
        codes, params = format.unpack(packed, cols)
        return QTensor(format, codes, params)
