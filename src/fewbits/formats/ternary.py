"""Three values with a scale: -1, 0 and 1, five codes in a byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats.base import Bytes, Params
from fewbits.formats.coding import Coding
from fewbits.formats.grids import UniformGrid
from fewbits.formats.histogram import Histogram
from fewbits.formats.names import Words
from fewbits.formats.scaled import LARGEST_SCALE, SMALLEST_SCALE, Scaled, scale_of
from fewbits.formats.steps import Measured, step_at, symmetric_step
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"ternary(_.*)?"
LISTED = ("ternary_tensor", "ternary_g128_f16", "ternary_row_dq")
LEVELS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
PER_BYTE = 5


@dataclass(frozen=True, kw_only=True)
class Ternary(Scaled):
    """w = scale * (code - 1): codes 0, 1 and 2; five of them make a byte, so that a code takes 1.6 bits."""

    code_bits: int = 2
    source: str = "Li et al. 2016, Ternary weight networks, arXiv:1605.04711"
    equation: str = "w = scale * (code - 1)"
    error_bound: float = 1.0
    guide: str = "ternary"

    @property
    def name(self) -> str:
        """Scope, and how scales are stored where not as numbers of 32 bits."""
        return "_".join(["ternary", self.scope.word, *self.scale_words])

    @property
    def coding(self) -> Coding:
        """How a native kernel codes the format."""
        return Coding("symmetric", self.code_bits, self.span, top=2, middle=1, levels=LEVELS, fives=True)

    @property
    def layout(self) -> str:
        """The fields."""
        rest = super().layout.partition(";")[2]
        return f"codes: five in a byte, the first one counts 1, the next 3, 9, 27 and 81;{rest}"

    @property
    def largest(self) -> float:
        """The largest scale."""
        return LARGEST_SCALE[self.scale]

    @property
    def error_floor(self) -> float:
        """What the resolution of small scales leaves."""
        return SMALLEST_SCALE[self.scale]

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """The scale of the whole tensor, where there is one, from its histogram."""
        if self.scope.rows != 0:
            return super().prepare(slabs)
        return self.shared(**self.stored_scales(self._search(Histogram.of(slabs).measured()).float()))

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale per scope."""
        if self.scope.rows == 0 and codes is None:
            return like or self.shared(**(self.prepare([w]) or Params({})).arrays)
        m = Measured.of(self.grouped(w), self.weights_of(w, importance))
        steps = self._search(m) if codes is None else step_at(m, self.grouped(codes.float()) - 1)
        return self.shared(**self.stored_scales(steps, like))

    def _search(self, m: Measured) -> torch.Tensor:
        return symmetric_step(m, -1, 1, LEVELS)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = self.spread(self.scales(params), cols)
        return UniformGrid(scale, torch.zeros_like(scale), top=2, zero=1)

    def code_bytes(self, cols: int) -> int:
        """Bytes of the codes of a row."""
        return -(-cols // PER_BYTE)

    def packed_codes(self, codes: Bytes) -> Bytes:
        """Codes (rows, cols) as bytes (rows, bytes per row)."""
        whole = np.zeros((len(codes), self.code_bytes(codes.shape[1]) * PER_BYTE), np.uint8)
        whole[:, : codes.shape[1]] = codes
        powers = np.array([1, 3, 9, 27, 81], np.uint8)
        packed: Bytes = (whole.reshape(len(codes), -1, PER_BYTE) * powers).sum(-1, dtype=np.uint8)
        return packed

    def unpacked_codes(self, packed: Bytes, cols: int) -> Bytes:
        """Bytes (rows, bytes per row) as codes (rows, cols)."""
        self.check_codes(packed)
        powers = np.array([1, 3, 9, 27, 81], np.uint8)
        codes: Bytes = (packed[..., None] // powers % 3).reshape(len(packed), -1)[:, :cols]
        return np.ascontiguousarray(codes)

    def check_codes(self, packed: Bytes) -> None:
        """Raise FormatError where a byte is none that five codes make."""
        if packed.max(initial=0) >= 3**PER_BYTE:
            raise FormatError(
                f"{self.name} packs five codes into a byte up to {3**PER_BYTE - 1} and was given {packed.max()}; "
                "the file is damaged"
            )


def parse(name: str) -> Ternary:
    """The format that `name` states.

    >>> parse("ternary_g128_f16").bits(1, 640) / 640
    1.725
    """
    words = Words(name)
    words.kind()
    scope = words.scope()
    double, scale = scale_of(words, scope)
    words.end()
    return Ternary(scope=scope, scale=scale, double=double)
