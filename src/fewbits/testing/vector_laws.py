"""Laws of grids whose columns are rounded several at once: the nearest vector by brute force, vectors on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from fewbits.formats.base import Format, Grid, Params
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect
from fewbits.testing.grid_laws import ROUNDING, check_narrowed
from fewbits.testing.inputs import normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PLACES = (0.3, 0.8)
"""Where in each matrix a vector is compared with every code, evenly weighted and not."""

SMALLEST_STEP = 1e-15
"""Squares of smaller numbers vanish, and with them the difference between points."""


class VectorGrid(Grid, Protocol):
    """What the laws ask of a grid of vectors beside what every grid offers."""

    @property
    def step(self) -> torch.Tensor:
        """(rows, vectors): what numbers of points are multiplied with."""

    def nearest(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (rows, vectors) of least squared error in `weight` (rows, cols), evenly without."""

    def alternatives(self, found: int) -> torch.Tensor:
        """Every code (codes,) that a vector could have in place of `found`, or all that differ in one part."""

    def examples(self) -> torch.Tensor:
        """Codes (rows, vectors) that differ from place to place."""


def check_vectors(format: Format, w: torch.Tensor, params: Params, where: str) -> None:
    """The laws of `grid_laws`, for vectors."""
    grid = cast(VectorGrid, format.grid(params, slice(None)))
    expect(grid.vector == format.vector, f"{where}: no grid of vectors of {format.vector}")
    weights = (torch.ones_like(w), normal(len(w), w.shape[1], 8).square())
    for share, weight in zip(PLACES, weights, strict=True):
        place = int(share * grid.step.numel())
        _check_nearest(format, params, (w, weight), divmod(place, grid.step.shape[1]), where)
    _check_reachable_codes(grid, where)
    _check_columns(format, w, params, grid, where)


def _check_nearest(
    format: Format, params: Params, numbers: tuple[torch.Tensor, torch.Tensor], place: tuple[int, int], where: str
) -> None:
    """The code of least weighted error of all that there are, at (row, vector); `numbers` are w and their weights."""
    row, vector = place
    cols = slice(vector * format.vector, (vector + 1) * format.vector)
    grid = cast(VectorGrid, format.grid(params.slice(row, row + 1), cols))
    x, weight = (t[row : row + 1, cols] for t in numbers)
    found = grid.nearest(x, weight)
    codes = torch.cat([found, grid.alternatives(int(found))[None]], 1)
    values = grid.value(codes).reshape(-1, format.vector).double()
    errors = (weight * (values - x.double()).square()).sum(1)
    allowed = 4 * ROUNDING * float((weight * (values.abs().amax(0) + x.abs()).square()).sum())
    farther = float(errors[0] - errors.min())
    expect(farther <= allowed, f"{where}: a nearer code exists for vector {place}, by {farther:.3g}")


def _check_reachable_codes(grid: VectorGrid, where: str) -> None:
    """Codes come back from their own numbers, wherever those are not too small to be told apart."""
    codes = grid.examples()
    value = grid.value(codes)
    back = grid.nearest(value)
    told_apart = grid.step > SMALLEST_STEP
    expect(bool((back == codes)[told_apart].all()), f"{where}: a code does not come back from its own number")
    same = (grid.value(back) == value).reshape(*codes.shape, -1)
    expect(bool(same[told_apart].all()), f"{where}: a stored number does not come back")


def _check_columns(format: Format, w: torch.Tensor, params: Params, grid: VectorGrid, where: str) -> None:
    """A grid of some vectors gives what the whole matrix gives there: ranges, any order, one vector."""
    codes = grid.nearest(w)
    decoded = format.decode(codes, params)
    vectors = codes.shape[1]
    shuffled = (torch.arange(vectors) * 5 + 3) % vectors
    some: list[slice | torch.Tensor] = [slice(None), slice(3, vectors - 2), slice(0, 1), shuffled]
    for chosen in [*some, torch.tensor([vectors - 1, 0, vectors - 1])]:
        columns = torch.arange(w.shape[1]).reshape(-1, format.vector)[chosen].flatten()
        cols = slice(int(columns[0]), int(columns[-1]) + 1) if isinstance(chosen, slice) else columns
        part = cast(VectorGrid, format.grid(params, cols))
        expect(torch.equal(part.nearest(w[:, cols]), codes[:, chosen]), f"{where}: columns {cols} get other codes")
        same = torch.equal(part.value(codes[:, chosen]), decoded[:, columns])
        expect(same, f"{where}: columns {cols} mean other numbers")
    check_narrowed(format, w, params, codes, where)
