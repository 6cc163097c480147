"""The sweep of GPTQ: columns are rounded one vector after another, each to what the errors before it leave to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from fewbits.formats import overrides
from fewbits.formats.base import Format, Grid, Params
from fewbits.formats.overrides import Feedback, fit
from fewbits.lazy import LazyModule
from fewbits.methods.corners import Corners
from fewbits.methods.factor import Factor
from fewbits.methods.order import is_refitted
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROWS = 2048
"""Rows that are swept together: rows do not influence each other, and errors of all columns are kept in float64."""
LEAST_ROWS = 64
"""Rows that a thread takes at least."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found, and what it costs: `objective` (rows,) float64 is tr(E H E^T) row by row."""

    q: QTensor
    objective: torch.Tensor


def sweep(w: torch.Tensor, plain: QTensor, factor: Factor, importance: torch.Tensor, chunk: int) -> Swept:
    """Codes for `w` (rows, cols); parameters are fitted span by span, or `plain`'s where spans share some."""
    parts = []
    for start, stop in slabs(len(w), plain.format.rows):
        own = QTensor(plain.format, plain.codes[start:stop], plain.params.slice(start, stop))
        parts.append(_Slab(w[start:stop], own, factor, importance, chunk).swept())
    codes = torch.cat([part.q.codes for part in parts])
    params = Params.join([part.q.params for part in parts])
    return Swept(QTensor(plain.format, codes, params), torch.cat([part.objective for part in parts]))


def slabs(rows: int, together: int) -> Iterator[tuple[int, int]]:
    """Row ranges (start, stop) of at most ROWS, or of one row of tiles."""
    step = max(1, ROWS // max(1, together)) * max(1, together)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


class _Slab:
    """Some rows on their way through the sweep."""

    def __init__(self, w: torch.Tensor, plain: QTensor, factor: Factor, importance: torch.Tensor, chunk: int) -> None:
        self._w, self._factor, self._importance = factor.ordered(w), factor, importance
        self._format, self._params = plain.format, plain.params
        self._alone = is_refitted(plain.format) and _are_together(factor.order, plain.format.span)
        self._chunk = chunk_of(plain.format, chunk)
        self._errors = torch.zeros_like(w, dtype=torch.float64)
        self._objective = torch.zeros(len(w), dtype=torch.float64, device=w.device)

    def swept(self) -> Swept:
        """All columns, chunk by chunk."""
        cols, done = self._w.shape[1], []
        for start in range(0, cols, self._chunk):
            done += self._swept_chunk(start, min(start + self._chunk, cols))
        objective = self._objective - self._errors.square() @ self._factor.added
        codes, params = torch.cat([codes for codes, _ in done], 1), self._params
        if self._alone:
            params = Params.side_by_side(
                [done[at][1] for at in _places(self._factor.order, self._format.span, len(done))]
            )
        if self._factor.order is not None:
            codes = codes[:, _places(self._factor.order, self._format.vector, codes.shape[1])]
        return Swept(QTensor(self._format, codes, params), objective)

    def _swept_chunk(self, start: int, stop: int) -> list[tuple[torch.Tensor, Params]]:
        """Codes and parameters of columns `start` to `stop`, span by span."""
        upper, width = self._factor.upper[:stop, start:stop], self._format.span if self._alone else stop - start
        corners = Corners(upper[start:], self._format.vector)
        fed = overrides.add_product(
            torch.zeros_like(self._errors[:, start:stop]), self._errors[:, :start], upper[:start]
        )
        done = []
        for at in range(start, stop, width):
            here = slice(at - start, at - start + width)
            reached = overrides.add_product(fed[:, here], self._errors[:, start:at], upper[start:at, here])
            done.append(self._swept_span(slice(at, at + width), reached, corners.part(here)))
        return done

    def _swept_span(self, cols: slice, reached: torch.Tensor, corners: Corners) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of the columns `cols`, which the errors before have `reached` (rows, cols)."""
        target = corners.undone(reached) + self._w[:, cols]
        changed = corners.settled(reached).add_(self._w[:, cols]).float() if self._alone else target
        parts = in_threads(
            lambda rows: self._swept_part(rows, cols, changed[rows], target[rows], corners), target, self._format.rows
        )
        missed = corners.done(target)
        self._objective += missed.square() @ self._factor.energy[cols]
        codes = torch.cat([codes for codes, _ in parts])
        return codes, Params.join([params for _, params in parts]) if self._alone else self._params

    def _swept_part(
        self, rows: slice, cols: slice, changed: torch.Tensor, target: torch.Tensor, corners: Corners
    ) -> tuple[torch.Tensor, Params]:
        """The same of some rows; parameters are fitted to `changed`, the weights as the columns before changed them."""
        weight = corners.weights(self._factor.energy[cols])
        feedback = Feedback(self._w[rows, cols], target, corners.within, self._errors[rows, cols], weight)
        stored = cols if self._factor.order is None else self._factor.order[cols]
        if not self._alone:
            params = self._params.slice(rows.start, rows.stop)
            return round_columns(self._format, params, stored, feedback), params
        first, x = cols.start, changed
        if isinstance(stored, torch.Tensor):
            first, x = int(stored.min()), torch.empty_like(changed)
            x[:, stored - first] = changed
        params = fit(self._format, x, self._importance[first : first + self._format.span])
        own = slice(0, self._format.span) if isinstance(stored, slice) else stored - first
        return round_columns(self._format, params, own, feedback), params


Part = TypeVar("Part")


def in_threads(function: Callable[[slice], Part], w: torch.Tensor, together: int) -> list[Part]:
    """What `function` returns for ranges of rows of `w`, whole rows of tiles, in as many threads as torch has."""
    threads, rows = torch.get_num_threads() if w.device.type == "cpu" else 1, len(w)
    least = -(-LEAST_ROWS // max(together, 1)) * max(together, 1)
    step = max(1, -(-rows // (threads * least))) * least
    ranges = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if len(ranges) == 1:
        return [function(ranges[0])]
    with Workers(threads) as workers:
        return [result for _, result in workers.in_order(function, ranges)]


def round_columns(format: Format, params: Params, cols: slice | torch.Tensor, feedback: Feedback) -> torch.Tensor:
    """The codes of columns `cols` of a matrix under `params`, vector by vector; fills in what `Feedback` says."""
    codes = overrides.round_columns(format.grid(params, cols), feedback)
    return _round_columns_in_torch(format, params, cols, feedback) if codes is None else codes


def _round_columns_in_torch(
    format: Format, params: Params, cols: slice | torch.Tensor, feedback: Feedback
) -> torch.Tensor:
    codes = []
    for at in range(0, feedback.w.shape[1], format.vector):
        here, earlier = slice(at, at + format.vector), slice(0, at)
        target = feedback.target[:, here]
        target += feedback.errors[:, earlier] @ feedback.upper[earlier, here]
        own = slice(cols.start + at, cols.start + at + format.vector) if isinstance(cols, slice) else cols[here]
        grid = format.grid(params, own)
        codes.append(_nearest(grid, target.float().contiguous(), feedback.weight[here]))
        value = grid.value(codes[-1]).double()
        feedback.errors[:, here] = feedback.w[:, here].double() - value
        target -= value
    return torch.cat(codes, 1)


def _nearest(grid: Grid, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return grid.nearest(x) if grid.vector == 1 else cast(VectorGrid, grid).nearest(x, weight.expand_as(x))


class VectorGrid(Grid, Protocol):
    """A grid whose columns are rounded several at once, and then may weigh differently."""

    def nearest(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (rows, vectors) of least squared error in `weight` (rows, cols), evenly without."""


def chunk_of(format: Format, wanted: int) -> int:
    """Columns of a chunk: whole spans, at least one, of about `wanted` columns; vectors where a span is all columns."""
    span = max(format.span, format.vector)
    return max(1, wanted // span) * span


def _are_together(order: torch.Tensor | None, span: int) -> bool:
    """Whether the columns of a span follow each other in any order of their own."""
    return order is None or bool((order.reshape(-1, span) // span == order[::span, None] // span).all())


def _places(order: torch.Tensor | None, width: int, count: int) -> torch.Tensor:
    """Where the spans or vectors of `width` columns, in the order of storage, lie in `order`: (count,) int64."""
    return torch.arange(count) if order is None else (order[::width] // width).argsort()
