"""What formats share that give each small group of columns a scale of one byte."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Fields, Gridded, Params, Shape, Shapes, check_fields, spans_per_row
from fewbits.formats.fields import pack_bits, packed_bytes, stored_bits, unpack_bits
from fewbits.formats.grids import Element
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True, kw_only=True)
class Microscaled(Gridded):
    """Small elements with one small scale per group of columns: the fields `codes` and `scale`, a byte per group."""

    name: str
    element: Element
    source: str
    error_bound: float
    span: int = 32
    rows: int = 1
    vector: int = 1

    @abstractmethod
    def scale_bytes(self, params: Params) -> torch.Tensor:
        """The stored scales (rows, groups) uint8."""

    @abstractmethod
    def from_scale_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        """The parameter `scale` (rows, groups) float32 of stored scales."""

    def grouped(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) as (rows, groups, columns of a group)."""
        return w.reshape(len(w), spans_per_row(self.name, self.span, w.shape[1]), self.span)

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix; raises FormatError when the width does not fit."""
        scales = (rows, spans_per_row(self.name, self.span, cols))
        return {"codes": ("uint8", (rows, packed_bytes(cols, self.element.bits))), "scale": ("uint8", scales)}

    def bits(self, rows: int, cols: int) -> int:
        """Exact storage in bits, scales included."""
        return stored_bits(self.shapes(rows, cols))

    def fields(self, codes: torch.Tensor, params: Params) -> Fields:
        """What is stored, by name."""
        packed = pack_bits(codes.cpu().numpy(), self.element.bits)
        return {"codes": packed, "scale": self.scale_bytes(params).cpu().numpy()}

    def from_fields(self, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        check_fields(self.name, fields, self.shapes(*shape))
        codes = torch.from_numpy(unpack_bits(fields["codes"], self.element.bits, shape[1]))
        scale = torch.from_numpy(np.ascontiguousarray(fields["scale"]))
        return codes, Params({"scale": self.from_scale_bytes(scale)})
