"""Whole numbers of 1 to 8 bits whose offset is a number of its own beside each scale: MLX's bias, HQQ's zero point."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Fields, Params, Shapes
from fewbits.formats.exact import inverse, stored_as
from fewbits.formats.fields import from_field, to_field
from fewbits.formats.grids import MovedGrid, UniformGrid
from fewbits.formats.integers import ASYMMETRIC, EIGHT
from fewbits.formats.lines import REFITS, Line, Nearest, line_at, ranged
from fewbits.formats.names import Words
from fewbits.formats.scaled import LARGEST_SCALE, NUMBER_WORDS, SMALLEST_SCALE, Scaled
from fewbits.formats.steps import Measured, levels, zero_and_step
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"u?int\d+_[a-z0-9]+_(bias|floatzero)(_.*)?"
LISTED = ("uint4_g64_bias_bf16", "uint3_g32_bias_f16", "uint4_g64_floatzero_f16", "uint2_row_floatzero")

LARGEST_OFFSET = 2.0**127
"""What lies beyond is stored as this: no offset is infinite."""
FURTHEST_ZERO = {"f32": 2.0**20, "f16": 2.0**10, "bf16": 2.0**7}
"""Zero points farther from the codes would be rounded by more than half a step."""


@dataclass(frozen=True, kw_only=True)
class Offset(Scaled):
    """What both members share: the fields, the search for the best line, and its fit by least squares."""

    @property
    @abstractmethod
    def word(self) -> str:
        """What a name calls the offset."""

    @property
    @abstractmethod
    def field(self) -> str:
        """The field that holds the offset, and the parameter."""

    @abstractmethod
    def through(self, line: Line) -> dict[str, torch.Tensor]:
        """The parameters, as they are stored, of the line nearest to `line`."""

    @property
    def name(self) -> str:
        """Kind, scope, what the offset is, and the type of scale and offset unless it is f32."""
        return "_".join([f"uint{self.code_bits}", self.scope.word, self.word, *self.scale_words])

    @property
    def guide(self) -> str:
        """The entry of guide.toml."""
        return self.word

    @property
    def layout(self) -> str:
        """The fields."""
        return f"{super().layout}; {self.field}: {self.scale}, one per scale; codes are unsigned"

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.code_bits) - 1

    @property
    def largest(self) -> float:
        """What the largest scale and offset take without a product that overflows."""
        return LARGEST_SCALE[self.scale]

    @property
    def error_bound(self) -> float:
        """That of whole zero points: no line is taken that is farther from the numbers than theirs."""
        if self.code_bits < 4:
            return 1.0
        if self.span == 0:
            return min(1.0, 1.0 - self.levels[0] / self.levels[-1] + 4.0 / self.top)
        return (6.4 if self.code_bits == 4 else 4.8) / self.top

    @property
    def error_floor(self) -> float:
        """What the resolution of small scales leaves, times the largest code."""
        return SMALLEST_SCALE[self.scale] * (self.top + 1)

    @property
    def levels(self) -> tuple[float, ...]:
        """Into how many steps the search divides the range."""
        window = ASYMMETRIC.get(self.code_bits, EIGHT)
        return levels(self.top, window, 7 if self.code_bits < 6 else 4, self.span)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale and the offset per scope: those of the nearest line that is found, never farther than the best one
        with a whole zero point; at `codes` by least squares.
        """
        m = Measured.of(self.grouped(w), self.weights_of(w, importance))
        if codes is not None:
            return self.shared(**self.through(line_at(m, self.grouped(codes.float()))))
        zero, step = zero_and_step(m, self.top, self.levels)
        found = Nearest(self.grouped(w), m, self._stored)
        found.attempt(Line(step, zero, torch.zeros_like(step)))
        for level in self.levels:
            codes = ranged(m, self.top, level)
            for _ in range(1 + REFITS):
                codes = found.attempt(line_at(m, codes))
        return self.shared(**found.arrays)

    def _stored(self, line: Line) -> tuple[dict[str, torch.Tensor], UniformGrid]:
        """The stored parameters of a line, and what numbers of one span a row can become under them."""
        arrays = self.through(line)
        return arrays, self._grid(*(arrays[name].reshape(-1, 1) for name in ("scale", self.field)))

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        return self._grid(*(self.spread(params[name], cols) for name in ("scale", self.field)))

    @abstractmethod
    def _grid(self, scale: torch.Tensor, offset: torch.Tensor) -> UniformGrid:
        """The grid of scales and offsets."""

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix."""
        shapes = super().shapes(rows, cols)
        return {**shapes, self.field: shapes["scale"]}

    def parameter_fields(self, params: Params) -> Fields:
        """All fields but the codes."""
        return {**super().parameter_fields(params), self.field: to_field(params[self.field], self.scale)}

    def parameters(self, fields: Fields) -> Params:
        """The parameters that fields hold."""
        return self.shared(**{name: from_field(fields[name], self.scale) for name in ("scale", self.field)})


@dataclass(frozen=True, kw_only=True)
class FreeBias(Offset):
    """w = scale * code + bias, the product rounded to float32 and then the sum.

    >>> parse("uint4_g64_bias_f16").bits(1, 64) / 64
    4.5
    """

    word: str = "bias"
    field: str = "bias"
    equation: str = "w = scale * code + bias"
    source: str = "MLX, mlx.core.quantize, mode affine"

    def through(self, line: Line) -> dict[str, torch.Tensor]:
        """The scale as it is stored, and the bias that is best beside it."""
        scale = stored_as(line.step, self.scale)
        bias = (line.value - scale * line.code).clamp(-LARGEST_OFFSET, LARGEST_OFFSET)
        return {"scale": scale, "bias": stored_as(bias, self.scale)}

    def _grid(self, scale: torch.Tensor, offset: torch.Tensor) -> UniformGrid:
        return UniformGrid(scale, -offset, self.top)


@dataclass(frozen=True, kw_only=True)
class FloatZero(Offset):
    """w = scale * (code - zero), the difference rounded to float32 and then the product.

    A line that does not rise, or hardly, has its zero point far from all codes. Steps are therefore never less than
    the value over `FURTHEST_ZERO`.

    >>> parse("uint4_g64_floatzero").bits(1, 64) / 64
    5.0
    """

    word: str = "floatzero"
    field: str = "zero"
    equation: str = "w = scale * (code - zero), zero no whole number"
    source: str = "Badri and Shaji 2023, Half-Quadratic Quantization, equation 1"

    def through(self, line: Line) -> dict[str, torch.Tensor]:
        """The scale as it is stored, and the zero point that is best beside it."""
        least = line.value.abs() * (1.0 / FURTHEST_ZERO[self.scale])
        step = torch.where(line.step.abs() < least, torch.where(line.step < 0, -least, least), line.step)
        scale = stored_as(step, self.scale)
        return {"scale": scale, "zero": stored_as(line.code - line.value * inverse(scale), self.scale)}

    def _grid(self, scale: torch.Tensor, offset: torch.Tensor) -> UniformGrid:
        return MovedGrid(scale, torch.zeros_like(scale), self.top, offset)


MEMBERS = {"bias": FreeBias, "floatzero": FloatZero}


def parse(name: str) -> Offset:
    """The format that `name` states; raises FormatError saying which word is wrong, and what is near.

    >>> parse("uint4_g64_bias_f16").name, parse("uint4_row_floatzero_f32").name
    ('uint4_g64_bias_f16', 'uint4_row_floatzero')
    >>> parse("uint4_tensor_bias")
    Traceback (most recent call last):
    fewbits.errors.FormatError: unknown format 'uint4_tensor_bias': it does not say which numbers share a scale (a \
group has 2 to 1048576); did you mean 'uint4_row_bias' or 'uint4_g128_bias'?
    """
    words = Words(name)
    kind = words.kind()
    bits = kind.removeprefix("u").removeprefix("int")
    if not kind.startswith("u"):
        raise words.refuse("codes beside an offset of their own are counted from 0", f"u{name}")
    if not 1 <= int(bits) <= 8 or bits.startswith("0"):
        raise words.refuse("codes have 1 to 8 bits", name.replace(bits, "8" if int(bits) > 8 else "1", 1))
    scope = words.scope(("row", "g"))
    member = words.one_of(MEMBERS)
    scale = words.one_of(NUMBER_WORDS, "f32")
    words.end()
    return member(code_bits=int(bits), scope=scope, scale=scale)
