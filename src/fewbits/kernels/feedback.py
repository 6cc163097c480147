"""Columns rounded one after another under error feedback, natively: what grids allow, told in numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fewbits.formats.absmax import UNIT, AbsMaxGrid
from fewbits.formats.base import Grid
from fewbits.formats.grids import Element, ElementGrid, MovedGrid, TableGrid, UniformGrid, halfways
from fewbits.formats.iq1 import ShiftedLattice
from fewbits.formats.iq1_lattice import NAME as TERNARY
from fewbits.formats.iq1_lattice import WIDTH
from fewbits.formats.lattice_grid import LatticeGrid
from fewbits.formats.micro import E2M1Grid
from fewbits.formats.minifloat import E2M1
from fewbits.formats.overrides import Feedback
from fewbits.formats.tiny import SignGrid
from fewbits.kernels import module_with_points
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

EVEN, TABLE, SIGN, MOVED, TWICE = range(5)
"""How a native kernel rounds (native/include/fewbits/feedback.h)."""


class Steps(NamedTuple):
    """A ladder of the native module, and what each number is scaled and shifted by, (rows, cols) or broadcast to it."""

    ladder: Any
    scale: torch.Tensor
    offset: torch.Tensor
    zero: torch.Tensor


class Points(NamedTuple):
    """Points of a lattice as the native module takes them: (lattice, columns of a point, points of a vector, whether an
    even number of columns is negative, whether all are shifted, both ways), and steps and shifts (rows, vectors).
    """

    kind: tuple[str, int, int, bool, bool, bool]
    step: torch.Tensor
    shift: torch.Tensor


def round_columns(grid: Grid, feedback: Feedback, *, isa: str = "") -> torch.Tensor | None:
    """Codes (rows, cols / vector) of a sweep (formats/overrides.py); None where no kernel knows the grid."""
    if type(grid) in _GRIDS:
        return _round_columns(_GRIDS[type(grid)](grid, len(feedback.w)), feedback, isa)
    if type(grid) in _VECTOR_GRIDS:
        return _round_vectors(_VECTOR_GRIDS[type(grid)](grid), feedback, isa)
    return None


def add_product(
    sums: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, minus: bool = False, isa: str = ""
) -> None:
    """Add `left` (rows, terms) @ `right` (terms, cols), or take it away, in float64 (formats/overrides.py)."""
    native_module().add_product(sums.numpy(), left.numpy(), right.numpy(), minus, isa)


def _round_columns(steps: Steps, feedback: Feedback, isa: str) -> torch.Tensor:
    shape = tuple(feedback.w.shape)
    codes = torch.empty(shape, dtype=torch.uint8)
    ladder, *parameters = steps
    native_module().round_columns(
        ladder,
        feedback.w.numpy(),
        *(p.float().broadcast_to(shape).numpy() for p in parameters),
        feedback.target.numpy(),
        feedback.upper.numpy(),
        codes.numpy(),
        feedback.errors.numpy(),
        isa,
    )
    return codes


def _round_vectors(points: Points, feedback: Feedback, isa: str) -> torch.Tensor:
    codes = torch.empty(points.step.shape, dtype=torch.int32)
    module_with_points(points.kind[0]).round_vectors(
        points.kind,
        feedback.w.numpy(),
        points.step.numpy(),
        points.shift.broadcast_to(points.step.shape).numpy(),
        feedback.weight.contiguous().numpy(),
        feedback.target.numpy(),
        feedback.upper.numpy(),
        codes.numpy(),
        feedback.errors.numpy(),
        isa,
    )
    return codes


def _uniform(grid: UniformGrid, rows: int) -> Steps:
    zero = torch.as_tensor(grid.zero, dtype=torch.float32)
    return Steps(_ladder(EVEN, grid.bottom, grid.top), grid.scale, grid.offset, zero)


def _moved(grid: MovedGrid, rows: int) -> Steps:
    return Steps(_ladder(MOVED, grid.bottom, grid.top), grid.scale, _nothing(), torch.as_tensor(grid.zero))


def _absmax(grid: AbsMaxGrid, rows: int) -> Steps:
    unit = torch.full((1, 1), UNIT)
    return Steps(
        _ladder(TWICE, grid.bottom, grid.top), grid.scale, unit, torch.as_tensor(grid.zero, dtype=torch.float32)
    )


def _sign(grid: SignGrid, rows: int) -> Steps:
    return Steps(_ladder(SIGN), grid.scale, grid.offset, _nothing())


def _table(grid: TableGrid, rows: int) -> Steps:
    return Steps(_table_ladder(tuple(grid.table.tolist())), grid.scale, _nothing(), _nothing())


def _element(grid: ElementGrid, rows: int) -> Steps:
    return Steps(_element_ladder(grid.element), grid.scale_of(rows), _nothing(), _nothing())


def _e2m1(grid: E2M1Grid, rows: int) -> Steps:
    return Steps(_doubled_e2m1(), grid.scale, _nothing(), _nothing())


_GRIDS: dict[type, Callable[[Any, int], Steps]] = {
    UniformGrid: _uniform,
    MovedGrid: _moved,
    AbsMaxGrid: _absmax,
    SignGrid: _sign,
    TableGrid: _table,
    ElementGrid: _element,
    E2M1Grid: _e2m1,
}


def _signed(grid: LatticeGrid) -> Points:
    code = grid.code
    return Points((code.name, code.width, code.parts, code.even, False, False), grid.step, _nothing())


def _shifted(grid: ShiftedLattice) -> Points:
    both = grid.shift is None
    return Points((TERNARY, WIDTH, 1, False, True, both), grid.step, _nothing() if grid.shift is None else grid.shift)


_VECTOR_GRIDS: dict[type, Callable[[Any], Points]] = {LatticeGrid: _signed, ShiftedLattice: _shifted}


def _nothing() -> torch.Tensor:
    return torch.zeros(1, 1)


@lru_cache(maxsize=64)
def _ladder(rounding: int, bottom: int = 0, top: int = 1) -> Any:
    return native_module().ladder((rounding, bottom, top, 0, 0.0), [], [], [])


@lru_cache(maxsize=64)
def _table_ladder(table: tuple[float, ...]) -> Any:
    """Numbers in order; halfway between two the larger one is nearest."""
    numbers, codes, starts = halfways(torch.tensor(table))
    return native_module().ladder((TABLE, 0, 0, 0, 0.0), [0.0, *starts.tolist()], numbers.tolist(), codes.tolist())


@lru_cache(maxsize=16)
def _element_ladder(element: Element) -> Any:
    negative, positive = element.encode(torch.tensor([-0.0, 0.0])).tolist()
    if negative == positive:
        return _ladder_of(element, element.numbers(), 0)
    return _ladder_of(element, element.numbers()[: 2 ** (element.bits - 1)], 2 ** (element.bits - 1))


@lru_cache(maxsize=1)
def _doubled_e2m1() -> Any:
    """As E2M1Grid: half of x / scale is rounded, and numbers are doubled."""
    return _ladder_of(E2M1, E2M1.numbers()[:8], 8, times=0.5)


def _ladder_of(element: Element, numbers: torch.Tensor, mirror: int, times: float = 0.0) -> Any:
    """The first finite of `numbers` in order; where halfway goes to the lower of two, the upper starts just above."""
    numbers, codes = numbers.sort(stable=True)
    kept = numbers.isfinite() & (element.encode(numbers) == codes)
    numbers, codes = numbers[kept], codes[kept]
    halfway = (numbers[1:] + numbers[:-1]) * 0.5
    above = torch.nextafter(halfway, torch.full_like(halfway, torch.inf))
    starts = torch.where(element.encode(halfway) == codes[1:], halfway, above)
    scaled = numbers / times if times else numbers
    kind = (TABLE, 0, 0, mirror, times)
    return native_module().ladder(kind, [0.0, *starts.tolist()], scaled.tolist(), codes.tolist())
