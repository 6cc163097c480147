"""What formats share that scale small codes: which numbers share a scale, and the fields `codes` and `scale`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fewbits.formats import doubled
from fewbits.formats.base import Bytes, Fields, Gridded, Params, Shape, Shapes, check_fields, spans_per_row
from fewbits.formats.coding import Coding
from fewbits.formats.exact import stored_as
from fewbits.formats.fields import (
    NUMBERS,
    from_field,
    pack_bits,
    packed_bytes,
    stored_bits,
    to_field,
    unpack_bits,
)
from fewbits.formats.names import Scope, Words
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
    """Codes of `code_bits` bits, the scales of `scope` stored as numbers of the type `scale`: f32, f16 or bf16.

    With `double`, scales are quantized themselves (formats/doubled.py); all rows of a tensor share something then.
    """

    code_bits: int
    scope: Scope
    scale: str = "f32"
    double: bool = False
    vector: int = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """The registry's name."""

    @abstractmethod
    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale per scope, and what goes with it."""

    @property
    def coding(self) -> Coding | None:
        """How a native kernel codes the format; None where none does."""
        return None

    @property
    def span(self) -> int:
        """Columns that share a scale; 0 = all."""
        return self.scope.span

    @property
    def rows(self) -> int:
        """Rows that share a scale, or what scales are made of: 1, 0 = all."""
        return 0 if self.double else self.scope.rows

    @property
    def layout(self) -> str:
        """The fields."""
        kind = f"8 bits, one per {self.scope.what}; nested: f32, one per 256 scales; offset: f32, one"
        return (
            f"codes: {self.code_bits} bits each, the lowest bit of a row's byte 0 first; "
            f"scale: {kind if self.double else f'{self.scale}, one per {self.scope.what}'}"
        )

    @property
    def scale_words(self) -> list[str]:
        """The words of a name that say how scales are stored."""
        return ["dq"] if self.double else [] if self.scale == "f32" else [self.scale]

    def lines(self, rows: int) -> int:
        """Lines of parameters of a matrix of `rows` rows."""
        return -(-rows // self.scope.rows) if self.scope.rows else 1

    def grouped(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) as (lines, scales of a line, numbers that share one)."""
        if self.scope.rows == 0:
            return w.reshape(1, 1, -1)
        return w.reshape(len(w), spans_per_row(self.name, self.span, w.shape[1]), -1)

    def weights_of(self, w: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        """The weights of squared errors, grouped as the numbers are."""
        weights = torch.ones_like(w) if importance is None else importance.expand_as(w)
        return self.grouped(weights)

    def spread(self, parameter: torch.Tensor, cols: slice | torch.Tensor) -> torch.Tensor:
        """A parameter (lines, n) as it applies to columns `cols`: (rows, cols), or to be broadcast to that."""
        return parameter.repeat_interleave(self.span, 1)[:, cols] if self.span else parameter

    def shared(self, **arrays: torch.Tensor) -> Params:
        """Parameters of which every line serves the rows of the scope."""
        each = {name: 0 if name in ("offset", "table") else self.scope.rows for name in arrays}
        return Params(arrays, {name: rows for name, rows in each.items() if rows != 1})

    def stored_scales(self, steps: torch.Tensor, like: Params | None = None) -> dict[str, torch.Tensor]:
        """Parameters that hold the scales `steps` (lines, n) as they are stored."""
        if not self.double:
            return {"scale": stored_as(steps, self.scale)}
        shared = {n: like[n] for n in ("nested", "offset")} if like else doubled.shared_by_all(steps)
        return doubled.compressed(steps, shared)

    def scales(self, params: Params) -> torch.Tensor:
        """The scales (lines, n) float32 that parameters hold."""
        return doubled.scales(params.arrays) if self.double else params["scale"]

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """Where scales are quantized, what they share: fitted slab by slab, then looked at together."""
        if not self.double:
            return None
        single = replace(self, double=False)
        steps = torch.cat([single.fit(slab)["scale"] for slab in slabs])
        return self.shared(**doubled.shared_by_all(steps))

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix; raises FormatError when the width does not fit."""
        scales = (self.lines(rows), spans_per_row(self.name, self.span, cols))
        kinds: Shapes = doubled.shapes(*scales) if self.double else {"scale": (NUMBERS[self.scale], scales)}
        return {"codes": ("uint8", (rows, self.code_bytes(cols))), **kinds}

    def code_bytes(self, cols: int) -> int:
        """Bytes of the codes of a row."""
        return packed_bytes(cols, self.code_bits)

    def bits(self, rows: int, cols: int) -> int:
        """Exact storage in bits, scales included."""
        return stored_bits(self.shapes(rows, cols))

    def fields(self, codes: torch.Tensor, params: Params) -> Fields:
        """What is stored, by name."""
        return {"codes": self.packed_codes(self.stored_codes(codes).cpu().numpy()), **self.parameter_fields(params)}

    def parameter_fields(self, params: Params) -> Fields:
        """All fields but the codes."""
        if self.double:
            return doubled.to_fields(params.arrays)
        return {"scale": to_field(params["scale"], self.scale)}

    def parameters(self, fields: Fields) -> Params:
        """The parameters that fields hold."""
        if self.double:
            return self.shared(**doubled.from_fields(fields))
        return self.shared(scale=from_field(fields["scale"], self.scale))

    def packed_codes(self, codes: Bytes) -> Bytes:
        """Codes (rows, cols) as bytes (rows, bytes per row)."""
        return pack_bits(codes, self.code_bits)

    def unpacked_codes(self, packed: Bytes, cols: int) -> Bytes:
        """Bytes (rows, bytes per row) as codes (rows, cols)."""
        return unpack_bits(packed, self.code_bits, cols)

    def check_codes(self, packed: Bytes) -> None:
        """Raise FormatError where packed codes are none that the format has; here all are."""

    def from_fields(self, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        check_fields(self.name, fields, self.shapes(*shape))
        codes = torch.from_numpy(self.unpacked_codes(fields["codes"], shape[1]))
        return self.stored_codes(codes), self.parameters(fields)

    def stored_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes as they are stored, and stored codes as codes."""
        return codes


def scale_of(words: Words, scope: Scope) -> tuple[bool, str]:
    """What the next word says of the scales: whether they are quantized themselves, and their type."""
    choices = NUMBER_WORDS if scope.rows != 1 else {**NUMBER_WORDS, "dq": "dq"}
    word = words.one_of(choices, "f32")
    return word == "dq", "f32" if word == "dq" else word
