"""What formats share that scale small codes: which numbers share a scale, and the fields `codes` and `scale`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Fields, Gridded, Params, Shape, Shapes, check_fields, spans_per_row
from fewbits.formats.fields import (
    NUMBERS,
    from_field,
    pack_bits,
    packed_bytes,
    stored_bits,
    to_field,
    unpack_bits,
)
from fewbits.formats.names import Scope
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

NUMBER_WORDS = {kind: kind for kind in NUMBERS}
LARGEST_SCALE = {"f32": 2.0**126, "bf16": 2.0**126, "f16": 65504.0}
SMALLEST_SCALE = {"f32": 2.0**-126, "bf16": 2.0**-126, "f16": 2.0**-25}
"""What the rounding of small scales costs: half a step of binary16; below normal numbers, scales are stored as 0."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Gridded):
    """Codes of `code_bits` bits, the scales of `scope` stored as numbers of the type `scale`: f32, f16 or bf16."""

    code_bits: int
    scope: Scope
    scale: str = "f32"
    vector: int = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """The registry's name."""

    @property
    def span(self) -> int:
        """Columns that share a scale; 0 = all."""
        return self.scope.span

    @property
    def rows(self) -> int:
        """Rows that share a scale: 1, 0 = all."""
        return self.scope.rows

    @property
    def layout(self) -> str:
        """The fields."""
        return (
            f"codes: {self.code_bits} bits each, the lowest bit of a row's byte 0 first; "
            f"scale: {self.scale}, one per {self.scope.what}"
        )

    def lines(self, rows: int) -> int:
        """Lines of parameters of a matrix of `rows` rows."""
        return -(-rows // self.rows) if self.rows else 1

    def grouped(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) as (lines, scales of a line, numbers that share one)."""
        if self.rows == 0:
            return w.reshape(1, 1, -1)
        return w.reshape(len(w), spans_per_row(self.name, self.span, w.shape[1]), -1)

    def spread(self, parameter: torch.Tensor, cols: slice | torch.Tensor) -> torch.Tensor:
        """A parameter (lines, n) as it applies to columns `cols`: (rows, cols), or to be broadcast to that."""
        return parameter.repeat_interleave(self.span, 1)[:, cols] if self.span else parameter

    def shared(self, **arrays: torch.Tensor) -> Params:
        """Parameters of which every line serves the rows of the scope."""
        return Params(arrays, dict.fromkeys(arrays, self.rows) if self.rows != 1 else {})

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix; raises FormatError when the width does not fit."""
        scales = (self.lines(rows), spans_per_row(self.name, self.span, cols))
        return {
            "codes": ("uint8", (rows, packed_bytes(cols, self.code_bits))),
            "scale": (NUMBERS[self.scale], scales),
        }

    def bits(self, rows: int, cols: int) -> int:
        """Exact storage in bits, scales included."""
        return stored_bits(self.shapes(rows, cols))

    def fields(self, codes: torch.Tensor, params: Params) -> Fields:
        """What is stored, by name."""
        packed = pack_bits(self.stored_codes(codes).cpu().numpy(), self.code_bits)
        return {"codes": packed, "scale": to_field(params["scale"], self.scale)}

    def from_fields(self, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        check_fields(self.name, fields, self.shapes(*shape))
        codes = torch.from_numpy(unpack_bits(fields["codes"], self.code_bits, shape[1]))
        return self.stored_codes(codes), self.shared(scale=from_field(fields["scale"], self.scale))

    def stored_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes as they are stored, and stored codes as codes."""
        return codes
