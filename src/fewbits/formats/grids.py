"""What columns can become once their parameters are fixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from fewbits.formats.exact import inverse
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class UniformGrid:
    """Evenly spaced numbers scale * (code - zero) - offset; `scale` and `offset` are (rows, cols) or broadcast to it.

    `zero` is one number, or one per scale. Codes run from `bottom`, the smallest that is ever chosen, to `top`.

    >>> import torch
    >>> grid = UniformGrid(scale=torch.tensor([[0.5, 0.5]]), offset=torch.tensor([[1.0, 1.0]]), top=15)
    >>> grid.value(grid.nearest(torch.tensor([[0.3, -0.9]])))
    tensor([[ 0.5000, -1.0000]])
    """

    scale: torch.Tensor
    offset: torch.Tensor
    top: int
    zero: int | torch.Tensor = 0
    bottom: int = 0
    vector: int = 1

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 every code means the same and the one of step 0 is taken."""
        steps = ((x + self.offset) * inverse(self.scale)).round()
        if isinstance(self.zero, int):
            return (steps.clamp(self.bottom - self.zero, self.top - self.zero) + self.zero).to(torch.uint8)
        return (steps.clamp(self.bottom - self.zero, self.top - self.zero) + self.zero).to(torch.uint8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return self.scale * (codes.float() - self.zero) - self.offset

    def columns(self, start: int, stop: int) -> UniformGrid:
        """What columns `start` to `stop` of these can become."""
        zero = self.zero if isinstance(self.zero, int) else _cut(self.zero, start, stop)
        return replace(self, scale=_cut(self.scale, start, stop), offset=_cut(self.offset, start, stop), zero=zero)


@dataclass(frozen=True)
class MovedGrid(UniformGrid):
    """Numbers scale * (code - zero) where the zero point is no whole number; `offset` is 0.

    >>> import torch
    >>> grid = MovedGrid(torch.tensor([[0.5]]), torch.zeros(1, 1), top=15, zero=torch.tensor([[7.25]]))
    >>> grid.value(grid.nearest(torch.tensor([[0.3, -9.0]])))
    tensor([[ 0.3750, -3.6250]])
    """

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 every code means the same and the one at zero is taken."""
        return (x * inverse(self.scale) + self.zero).round().clamp(self.bottom, self.top).to(torch.uint8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return self.scale * (codes.float() - self.zero)


@dataclass(frozen=True)
class FloatGrid:
    """The numbers of a floating-point type; codes are the numbers themselves in that type."""

    dtype: torch.dtype
    vector: int = 1

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """`x` rounded to the type, nearest even."""
        return x.to(self.dtype)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return codes.float()

    def columns(self, start: int, stop: int) -> FloatGrid:
        """The same: every column can become every number."""
        return self


@dataclass(frozen=True)
class TableGrid:
    """Unevenly spaced numbers scale * table[code]; `scale` is (rows, cols) or broadcasts to it, `table` (codes,).

    The table may be in any order. Halfway between two of its numbers the larger one is taken, times the scale.

    >>> import torch
    >>> grid = TableGrid(scale=torch.tensor([[0.5, 2.0]]), table=torch.tensor([0.0, 1.0, 4.0]))
    >>> grid.value(grid.nearest(torch.tensor([[1.3, 1.3]])))
    tensor([[2., 2.]])
    """

    scale: torch.Tensor
    table: torch.Tensor
    vector: int = 1

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 the one of the number nearest to 0 is taken."""
        return nearest_in(self.table, x * inverse(self.scale)).to(torch.uint8)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return self.scale * self.table[codes.long()]

    def columns(self, start: int, stop: int) -> TableGrid:
        """What columns `start` to `stop` of these can become."""
        return replace(self, scale=_cut(self.scale, start, stop))


def _cut(parameter: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """A parameter (lines, cols) at some columns; one for all columns, (lines, 1), stays."""
    return parameter if parameter.shape[-1] == 1 else parameter[..., start:stop]


def nearest_in(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Indices, shaped like `x`, of the numbers of `table` nearest to `x`; halfway between two, of the larger one.

    A number that the table holds several times is taken where it stands first.

    >>> import torch
    >>> nearest_in(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([-3.0, 0.5, 2.0, 9.0]))
    tensor([1, 2, 2, 0])
    """
    _, order, halfway = halfways(table)
    return order[torch.bucketize(x.contiguous(), halfway, right=True)]


def halfways(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The distinct numbers of `table` in order, where each stands first, and what lies halfway between two of them."""
    numbers, order = table.sort(stable=True)
    first = torch.cat([numbers[:1] == numbers[:1], numbers[1:] != numbers[:-1]])
    numbers, order = numbers[first], order[first]
    return numbers, order, (numbers[1:] + numbers[:-1]) * 0.5


class Element(Protocol):
    """A type of small numbers of its own, before any scale: a small float, or a fixed-point number."""

    def __hash__(self) -> int:
        """Elements are frozen."""

    @property
    def name(self) -> str:
        """As its specification calls it."""

    @property
    def bits(self) -> int:
        """Of a code, its sign included."""

    @property
    def largest(self) -> float:
        """The largest finite number."""

    def numbers(self) -> torch.Tensor:
        """What every code means, in the order of the codes, float32."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The uint8 codes nearest to float32 `x`, ties to the even one, saturating."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers of `codes`."""

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers of the codes nearest to `x`."""


@dataclass(frozen=True)
class ElementGrid:
    """Numbers scale * element[code]; a line of `scale` serves `rows` rows (0 = all), its columns are (lines, cols).

    >>> import torch
    >>> from fewbits.formats.minifloat import E2M1
    >>> grid = ElementGrid(E2M1, scale=torch.tensor([[0.5, 2.0]]))
    >>> grid.value(grid.nearest(torch.tensor([[1.3, -9.0]])))
    tensor([[ 1.5000, -8.0000]])
    """

    element: Element
    scale: torch.Tensor
    rows: int = 1
    vector: int = 1

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8; where the scale is 0 those of 0."""
        return self.element.encode(x * inverse(self.scale_of(len(x))))

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return self.scale_of(len(codes)) * self.element.decode(codes)

    def columns(self, start: int, stop: int) -> ElementGrid:
        """What columns `start` to `stop` of these can become."""
        return replace(self, scale=_cut(self.scale, start, stop))

    def scale_of(self, rows: int) -> torch.Tensor:
        """The scale (rows, cols) of that many rows from the first one on, or what broadcasts to it."""
        return self.scale.repeat_interleave(self.rows, 0)[:rows] if self.rows > 1 else self.scale
