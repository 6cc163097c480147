"""LLM.int8()'s rows, as bitsandbytes stores them: codes of 8 bits beside the number that code 127 stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.errors import FormatError
from fewbits.formats.base import Params
from fewbits.formats.coding import Coding
from fewbits.formats.exact import inverse, stored_as
from fewbits.formats.grids import UniformGrid
from fewbits.formats.names import Scope
from fewbits.formats.scaled import Scaled
from fewbits.formats.steps import Measured, levels, step_at, symmetric_step
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

MIDDLE, FURTHEST = 128, 127
UNIT = 0.007874015718698502
"""1 / 127 in float32."""
WINDOW = (0.92, 1.02)
LARGEST = 2.0**120


@dataclass(frozen=True)
class AbsMaxGrid(UniformGrid):
    """Numbers (scale * (code - zero)) * UNIT, both products rounded; `offset` is 0.

    >>> import torch
    >>> grid = AbsMaxGrid(torch.tensor([[1.27]]), torch.zeros(1, 1), top=255, zero=128, bottom=1)
    >>> grid.value(grid.nearest(torch.tensor([[0.034, -9.0]])))
    tensor([[ 0.0300, -1.2700]])
    """

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 every code means the same and the middle one is taken."""
        steps = (x * inverse(self.scale * UNIT)).round()
        return (steps.clamp(self.bottom - MIDDLE, self.top - MIDDLE) + MIDDLE).to(torch.uint8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return self.scale * (codes.float() - self.zero) * UNIT


@dataclass(frozen=True, kw_only=True)
class AbsMax(Scaled):
    """w = scale * (code - 128) * (1 / 127), rounded after each product.

    `int8_row_sym` with scale / 127 for its scale rounds once; no scale makes the two the same for all codes.

    >>> parse("int8_row_absmax").bits(1, 4096) / 4096
    8.0078125
    """

    name: str = "int8_row_absmax"
    equation: str = "w = scale * (code - 128) * (1 / 127)"
    source: str = "Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339, section 2"
    largest: float = 2.0**119
    """Times 127 it is still a number: what the first product makes."""
    error_bound: float = 0.12
    error_floor: float = 2.0**-117

    @property
    def guide(self) -> str:
        """The entry of guide.toml."""
        return "absmax"

    @property
    def layout(self) -> str:
        """The fields."""
        return f"{super().layout}, what code 127 stands for; codes are two's complement"

    @property
    def steps(self) -> Coding:
        """How a native kernel finds steps and codes."""
        return Coding(
            "symmetric",
            self.code_bits,
            self.span,
            bottom=1,
            top=2 * MIDDLE - 1,
            middle=MIDDLE,
            flip=MIDDLE,
            levels=self.levels,
        )

    def of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """What code 127 stands for where a code is a step, as it is stored."""
        return stored_as((steps * FURTHEST).clamp(max=LARGEST), self.scale)

    @property
    def levels(self) -> tuple[float, ...]:
        """Into how many steps the search divides the largest magnitude."""
        return levels(FURTHEST, WINDOW, 4, self.span)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """What code 127 stands for, per row: the search of whole numbers, or least squares at `codes`."""
        m = Measured.of(self.grouped(w), self.weights_of(w, importance))
        if codes is None:
            step = symmetric_step(m, -FURTHEST, FURTHEST, self.levels)
        else:
            step = step_at(m, self.grouped(codes.float()) - MIDDLE)
        return self.shared(scale=self.of_steps(step))

    def grid(self, params: Params, cols: slice | torch.Tensor) -> AbsMaxGrid:
        """What columns `cols` can become."""
        scale = self.spread(params["scale"], cols)
        return AbsMaxGrid(scale, torch.zeros_like(scale), 2 * MIDDLE - 1, MIDDLE, bottom=1)

    def stored_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Two's complement, and back."""
        return codes ^ MIDDLE


ABSMAX = AbsMax(code_bits=8, scope=Scope(rows=1, span=0))
PATTERN = r"int8_row_absmax.*"
LISTED = ("int8_row_absmax",)


def parse(name: str) -> AbsMax:
    """The format called `name`; raises FormatError: there is one.

    >>> parse("int8_row_absmax").name
    'int8_row_absmax'
    """
    if name == ABSMAX.name:
        return ABSMAX
    raise FormatError(f"unknown format {name!r}: bitsandbytes has one such; did you mean 'int8_row_absmax'?")
