"""Laws of grids: the nearest code by brute force, codes that come back, columns taken on their own, error bounds."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fewbits.formats.base import Format, Params
from fewbits.formats.exact import SMALLEST_NORMAL
from fewbits.formats.grids import Element, ElementGrid, FloatGrid, TableGrid, UniformGrid
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROUNDING = 2.0**-20
"""Float32 arithmetic may prefer a code that is farther by this share of the largest magnitude around."""


def all_codes(format: Format, params: Params) -> torch.Tensor | None:
    """Every code that an element can take, (codes,); None where they are too many to try.

    >>> from fewbits import formats
    >>> import torch
    >>> q4_0 = formats.get("Q4_0")
    >>> len(all_codes(q4_0, q4_0.fit(torch.zeros(1, 32))))
    16
    """
    grid = format.grid(params, slice(None))
    if isinstance(grid, UniformGrid):
        return torch.arange(grid.bottom, grid.top + 1, dtype=torch.uint8)
    if isinstance(grid, TableGrid):
        return torch.arange(len(grid.table), dtype=torch.uint8)
    if isinstance(grid, FloatGrid) and grid.dtype.itemsize == 2:
        return _finite(grid.dtype)
    if isinstance(grid, ElementGrid):
        return _chosen(grid.element)
    return None


@cache
def _chosen(element: Element) -> torch.Tensor:
    """Codes of finite numbers in the order of the numbers, but for those that stand for what another code means."""
    numbers = element.numbers()
    order = numbers.argsort()
    codes = order[numbers[order].isfinite()].to(torch.uint8)
    return codes[element.encode(element.decode(codes)) == codes]


@cache
def _finite(dtype: torch.dtype) -> torch.Tensor:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return every[every.isfinite()].sort().values


def check_nearest(format: Format, w: torch.Tensor, params: Params, codes: torch.Tensor, where: str) -> None:
    """The code that was chosen is the nearest of all that there are."""
    every = all_codes(format, params)
    found = (format.decode(codes, params).double() - w.double()).abs()
    if every is None:
        nearest, allowed = torch.zeros_like(found), torch.zeros_like(found)
    elif isinstance(format.grid(params, slice(None)), FloatGrid):
        # The same numbers everywhere, in order: the nearest is one of two neighbours.
        numbers = every.double()
        above = torch.searchsorted(numbers, w.double()).clamp(1, len(numbers) - 1)
        nearest = torch.minimum((numbers[above] - w).abs(), (numbers[above - 1] - w).abs())
        allowed = torch.zeros_like(found)
    else:
        values = torch.stack([format.decode(code.expand_as(codes), params) for code in every]).double()
        nearest = (values - w).abs().amin(0)
        size = w.double().abs()
        if not isinstance(format.grid(params, slice(None)), ElementGrid):  # whose steps shrink with the numbers
            size = torch.maximum(values.abs().amax(0), size)
        allowed = ROUNDING * size
    farther = found - nearest
    expect(bool((farther <= allowed).all()), f"{where}: a nearer code exists, by {float(farther.max()):.3g}")


def check_reachable_codes(format: Format, w: torch.Tensor, params: Params, where: str) -> None:
    """Every code that is told apart from its neighbours comes back from its own number."""
    every = all_codes(format, params)
    if every is None:
        return
    rows, cols = w.shape
    pick = (torch.arange(rows * cols) * 7919 + 13) % len(every)
    codes = every[pick].reshape(rows, cols)
    value = format.decode(codes, params)
    back = format.encode(value, params)
    again = format.decode(back, params)
    told_apart = _told_apart(format, params, every, value)
    expect(bool((again == value)[told_apart].all()), f"{where}: a stored number does not come back")
    same = _same_codes(format, params, back, codes)[told_apart & (value != 0)]
    expect(bool(same.all()), f"{where}: a code does not come back from its own number")


def _same_codes(format: Format, params: Params, some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Where codes are equal, or equal numbers of a table, which may hold one twice."""
    grid = format.grid(params, slice(None))
    if isinstance(grid, TableGrid):
        return grid.table[some.long()] == grid.table[others.long()]
    return some == others


def _told_apart(format: Format, params: Params, every: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Where neighbours among the numbers of `every` code are farther apart than rounding could move one."""
    grid = format.grid(params, slice(None))
    if isinstance(grid, FloatGrid):
        return torch.ones_like(value, dtype=torch.bool)
    if isinstance(grid, ElementGrid):  # whose numbers lie apart in proportion to their size
        return value.abs() >= SMALLEST_NORMAL
    if isinstance(grid, TableGrid):
        numbers: torch.Tensor = torch.unique(grid.table.double())
        if len(numbers) == 1:
            return torch.ones_like(value, dtype=torch.bool)
        step = grid.scale.double().abs() * numbers.diff().min()
        return (step > 16 * ROUNDING * grid.scale.double().abs() * numbers.abs().max()).expand_as(value)
    low, high = (format.decode(end.expand_as(value), params).double() for end in (every[0], every[-1]))
    step = (high - low).abs() / (len(every) - 1)
    return step > 16 * ROUNDING * torch.maximum(low.abs(), high.abs())


def check_columns(format: Format, w: torch.Tensor, params: Params, codes: torch.Tensor, where: str) -> None:
    """A grid of some columns gives what the whole matrix gives there: ranges, steps, any order, one column."""
    cols, decoded = w.shape[1], format.decode(codes, params)
    shuffled = (torch.arange(cols) * 5 + 3) % cols
    some: list[slice | torch.Tensor] = [slice(None), slice(3, cols - 2), slice(1, None, 7), slice(0, 1)]
    for chosen in [*some, shuffled, torch.tensor([cols - 1, 0, cols - 1])]:
        grid = format.grid(params, chosen)
        expect(torch.equal(grid.nearest(w[:, chosen]), codes[:, chosen]), f"{where}: columns {chosen} get other codes")
        same = torch.equal(grid.value(codes[:, chosen]), decoded[:, chosen])
        expect(same, f"{where}: columns {chosen} mean other numbers")
    check_narrowed(format, w, params, codes, where)


def check_narrowed(format: Format, w: torch.Tensor, params: Params, codes: torch.Tensor, where: str) -> None:
    """Some columns of a grid are the grid of these columns, in two steps as in one."""
    middle, vector = codes.shape[1] // 2, format.vector
    whole = format.grid(params, slice(None))
    for start, stop in [(0, 1), (middle, middle + 1), (1, middle), (0, codes.shape[1])]:
        cols = slice(start * vector, stop * vector)
        grid = whole.columns(0, cols.stop).columns(cols.start, cols.stop)
        expect(torch.equal(grid.nearest(w[:, cols]), codes[:, start:stop]), f"{where}: {cols} of a grid: other codes")
        same = torch.equal(grid.value(codes[:, start:stop]), format.decode(codes, params)[:, cols])
        expect(same, f"{where}: {cols} of a grid: other numbers")


def check_error_bound(format: Format, w: torch.Tensor, back: torch.Tensor, where: str) -> None:
    """Within `error_bound` of the span's largest magnitude, beyond the floor."""
    if format.rows not in (0, 1):
        w, back = _tiles(format, w), _tiles(format, back)
    spans = w.reshape(1, 1, -1) if format.rows == 0 else w.reshape(len(w), -1, format.span or w.shape[1])
    spans = spans.double()
    far = (back.reshape(spans.shape).double() - spans).abs().amax(-1) - format.error_floor
    size = spans.abs().amax(-1)
    worst = float((far / size)[far > 0].max()) if bool((far > 0).any()) else 0.0
    expect(
        worst <= format.error_bound, f"{where}: off by {worst:.4g} of the span's largest, beyond {format.error_bound}"
    )


def _tiles(format: Format, w: torch.Tensor) -> torch.Tensor:
    """(tiles, numbers): tiles as spans of their own, the rows that are missing at the end filled up with zeros."""
    rows, cols = w.shape
    lines = -(-rows // format.rows)
    whole = torch.cat([w, torch.zeros(lines * format.rows - rows, cols)])
    return whole.reshape(lines, format.rows, -1, format.span).transpose(1, 2).reshape(-1, format.rows * format.span)


def check_half_step(format: Format, w: torch.Tensor, params: Params, where: str) -> None:
    """On an even grid no number between its ends is off by more than half a step."""
    grid = format.grid(params, slice(None))
    if not isinstance(grid, UniformGrid):
        return
    ends = [grid.value(torch.full(w.shape, end, dtype=torch.uint8)) for end in (grid.bottom, grid.top)]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    inside = (w >= low) & (w <= high)
    far = (grid.value(grid.nearest(w)).double() - w.double()).abs()
    allowed = grid.scale.abs().double() / 2 + ROUNDING * torch.maximum(low.abs(), high.abs())
    expect(bool((far <= allowed)[inside].all()), f"{where}: off by more than half a step between the ends of the grid")
