"""Laws of grids whose columns are rounded several at once: the nearest vector by brute force, vectors on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.formats.base import Format, Params
from fewbits.formats.lattice_grid import LatticeGrid, VectorCode
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect
from fewbits.testing.grid_laws import ROUNDING
from fewbits.testing.inputs import normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PLACES = (0.3, 0.8)
"""Where in each matrix a vector is compared with every code, evenly weighted and not."""

SMALLEST_STEP = 1e-15
"""Squares of smaller numbers vanish, and with them the difference between points."""


def check_vectors(format: Format, w: torch.Tensor, params: Params, where: str) -> None:
    """The laws of `grid_laws`, for a lattice."""
    grid = format.grid(params, slice(None))
    expect(isinstance(grid, LatticeGrid) and grid.vector == format.vector, f"{where}: no lattice of {format.vector}")
    if isinstance(grid, LatticeGrid):
        weights = (torch.ones_like(w), normal(len(w), w.shape[1], 8).square())
        for share, weight in zip(PLACES, weights, strict=True):
            _check_nearest(grid, w, weight, int(share * grid.step.numel()), where)
        _check_reachable_codes(grid, where)
        _check_columns(format, w, params, grid, where)


def every_code(code: VectorCode, found: int) -> torch.Tensor:
    """Every code where a vector is one point; of several points, all that differ from `found` in one of them.

    >>> len(every_code(VectorCode("IQ2_XXS", 1, even=True, width=8, count=256, top=43.0), 0))
    32768
    """
    points = code.split(torch.tensor([found]))[0].repeat(code.parts * code.count, 1)
    for part in range(code.parts):
        points[part * code.count : (part + 1) * code.count, part] = torch.arange(code.count)
    signs = torch.arange(2**code.vector)
    if code.even:
        signs = signs[: len(signs) // 2]
        signs = code.with_last_sign(signs)
    return code.join(points[:, None].expand(-1, len(signs), -1), signs.expand(len(points), -1)).flatten()


def _check_nearest(grid: LatticeGrid, w: torch.Tensor, weight: torch.Tensor, place: int, where: str) -> None:
    """Vector number `place` of `w` has the code of least weighted error of all that there are."""
    codes = grid.nearest(w, weight).flatten()
    vectors, weights = (t.reshape(-1, grid.vector) for t in (w, weight))
    step, x = grid.step.flatten()[place], vectors[place].double()
    numbers = grid.code.numbers(torch.cat([codes[place, None], every_code(grid.code, int(codes[place]))]))
    errors = (weights[place] * (step * numbers - x).square()).sum(1)
    allowed = 4 * ROUNDING * float((weights[place] * (step * numbers.abs().amax(0) + x.abs()).square()).sum())
    farther = float(errors[0] - errors.min())
    expect(farther <= allowed, f"{where}: a nearer code exists for vector {place}, by {farther:.3g}")


def _check_reachable_codes(grid: LatticeGrid, where: str) -> None:
    """Codes come back from their own numbers, wherever those are not too small to be told apart."""
    code, shape = grid.code, grid.step.shape
    place = torch.arange(grid.step.numel()).reshape(shape)
    points = torch.stack([(place * (7919 + part) + 13) % code.count for part in range(code.parts)], -1)
    signs = (place * 7907 + 5) % 2 ** (code.vector - code.even)
    codes = code.join(points, code.with_last_sign(signs) if code.even else signs)
    value = grid.value(codes)
    back = grid.nearest(value)
    told_apart = grid.step > SMALLEST_STEP
    expect(bool((back == codes)[told_apart].all()), f"{where}: a code does not come back from its own number")
    same = (grid.value(back) == value).reshape(*shape, -1)
    expect(bool(same[told_apart].all()), f"{where}: a stored number does not come back")


def _check_columns(format: Format, w: torch.Tensor, params: Params, grid: LatticeGrid, where: str) -> None:
    """A grid of some vectors gives what the whole matrix gives there: ranges, any order, one vector."""
    codes = grid.nearest(w)
    decoded = format.decode(codes, params)
    vectors = codes.shape[1]
    width = format.vector
    shuffled = (torch.arange(vectors) * 5 + 3) % vectors
    some: list[slice | torch.Tensor] = [slice(None), slice(3, vectors - 2), slice(0, 1), shuffled]
    for chosen in [*some, torch.tensor([vectors - 1, 0, vectors - 1])]:
        columns = torch.arange(w.shape[1]).reshape(-1, width)[chosen].flatten()
        cols = slice(int(columns[0]), int(columns[-1]) + 1) if isinstance(chosen, slice) else columns
        part = format.grid(params, cols)
        expect(torch.equal(part.nearest(w[:, cols]), codes[:, chosen]), f"{where}: columns {cols} get other codes")
        same = torch.equal(part.value(codes[:, chosen]), decoded[:, columns])
        expect(same, f"{where}: columns {cols} mean other numbers")
