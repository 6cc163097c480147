"""The lattice of IQ1: vectors of eight numbers -1, 0 or 1, all shifted by an eighth up or down; the nearest of them.

Errors are summed in a fixed tree: of pairs of columns, of the four columns of a half, of both halves. A half has only
81 forms, so its errors are made once for all points that begin or end with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fewbits.formats.lattices import points
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

NAME = "IQ1_S"
WIDTH = 8
COUNT = 2048
DELTA = 0.125
AT_ONCE = 1 << 12
"""Vectors whose errors at all points are in memory at once."""


@dataclass(frozen=True)
class Points:
    """The points (COUNT, WIDTH), and what halves 0 .. 80 each begins and ends with, its first column counting most.

    `order` lists the points by the half that they begin with. `of_digits` has the point of every vector of levels 0, 1
    and 2, read as a number whose first column counts most, and -1 where there is none.
    """

    numbers: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    order: torch.Tensor
    of_digits: torch.Tensor


@cache
def ternary_points(device: torch.device) -> Points:
    """The points on `device`."""
    numbers = torch.from_numpy(points(NAME).copy()).float().to(device)
    places = 3 ** torch.arange(WIDTH // 2 - 1, -1, -1, device=device)
    first, second = (((half.long() + 1) * places).sum(1) for half in torch.split(numbers, WIDTH // 2, 1))
    of_digits = torch.full((3**WIDTH,), -1, device=device)
    of_digits[first * 81 + second] = torch.arange(COUNT, device=device)
    return Points(numbers, first, second, torch.argsort(first, stable=True), of_digits)


def _halves(errors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The errors (vectors, 81) of both halves, of errors (vectors, WIDTH, 3) of columns at levels."""
    sums = list(errors.unbind(1))
    while len(sums) > 2:
        sums = [(a[:, :, None] + b[:, None, :]).flatten(1) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0], sums[1]


def _digits(errors: torch.Tensor) -> torch.Tensor:
    """The nearest level 0 .. 2 of each column (vectors, WIDTH), the lower one of equals."""
    low, middle, high = errors.unbind(-1)
    return torch.where(high < torch.minimum(low, middle), 2, torch.where(middle < low, 1, 0))


def _errors(x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    levels = torch.tensor([-1.0, 0.0, 1.0], device=x.device) + shift[:, None]
    r = (step[:, None] * levels)[:, None, :] - x[..., None]
    return (weight[..., None] * r) * r


def _search(errors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (vectors,) and their errors, by trying all."""
    table = ternary_points(errors.device)
    first, second = _halves(errors)
    totals = first[:, table.first[table.order]] + second[:, table.second[table.order]]
    begin = table.first[table.order[totals.argmin(1)]]
    ends = second[:, table.second].masked_fill(table.first != begin[:, None], torch.inf)
    return ends.argmin(1), totals.amin(1)


def nearest(
    x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (vectors,) and their errors: those of least sum weight * (step * (number + shift) - x)^2.

    `x` and `weight` are (vectors, WIDTH), `step` and `shift` (vectors,). Where the nearest levels of all columns are a
    point, it is taken. Else, of equally near points, the one with the smallest first half, then the one of lowest index
    among those whose second half is nearest.
    """
    errors = _errors(x, weight, step, shift)
    digits = _digits(errors)
    places = 3 ** torch.arange(WIDTH - 1, -1, -1, device=x.device)
    index = ternary_points(x.device).of_digits[(digits * places).sum(1)]
    sums = list(errors.gather(2, digits[..., None])[..., 0].unbind(1))
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
    error = sums[0]
    for missing in torch.split((index < 0).nonzero()[:, 0], AT_ONCE):
        index[missing], error[missing] = _search(errors[missing])
    return index, error
