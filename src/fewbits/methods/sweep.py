"""The sweep of GPTQ: columns are rounded one vector after another, each to what the errors before it leave to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Format, Grid, Params
from fewbits.lazy import LazyModule
from fewbits.methods.factor import Factor
from fewbits.qtensor import QTensor

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROWS = 2048
"""Rows that are swept together: rows do not influence each other, and errors of all columns are kept in float64."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found, and what it costs: `objective` (rows,) float64 is tr(E H E^T) row by row."""

    q: QTensor
    objective: torch.Tensor


def sweep(w: torch.Tensor, plain: QTensor, factor: Factor, importance: torch.Tensor, chunk: int) -> Swept:
    """Codes for `w` (rows, cols); parameters are fitted span by span, or `plain`'s where spans share some."""
    parts = []
    for start, stop in slabs(len(w), plain.format.rows):
        params = plain.params.slice(start, stop)
        parts.append(_Slab(w[start:stop], plain.format, params, factor, importance, chunk).swept())
    codes = torch.cat([part.q.codes for part in parts])
    params = Params.join([part.q.params for part in parts])
    return Swept(QTensor(plain.format, codes, params), torch.cat([part.objective for part in parts]))


def slabs(rows: int, together: int) -> Iterator[tuple[int, int]]:
    """Row ranges (start, stop) of at most ROWS, or of one row of tiles."""
    step = max(1, ROWS // max(1, together)) * max(1, together)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def cost(errors: torch.Tensor, factor: Factor) -> torch.Tensor:
    """tr(E H E^T) row by row, (rows,) float64, of `errors` E (rows, cols) in any order of rows, in single precision."""
    total = torch.zeros(len(errors), dtype=torch.float64, device=errors.device)
    for start in range(0, errors.shape[1], PANEL):
        stop = min(start + PANEL, errors.shape[1])
        moved = errors[:, :stop] @ factor.upper[:stop, start:stop].to(errors.dtype)
        total += moved.double().square() @ factor.energy[start:stop]
    return total - errors.double().square() @ factor.added


PANEL = 512
"""Columns whose costs are counted together."""


class _Slab:
    """Some rows on their way through the sweep."""

    def __init__(
        self,
        w: torch.Tensor,
        format: Format,
        params: Params,
        factor: Factor,
        importance: torch.Tensor,
        chunk: int,
    ) -> None:
        self._w, self._factor, self._chunk = w, factor, chunk_of(format, chunk)
        self._spans = _Spans(format, params, importance)
        self._errors = torch.zeros_like(w, dtype=torch.float64)
        self._objective = torch.zeros(len(w), dtype=torch.float64, device=w.device)

    def swept(self) -> Swept:
        """All columns, chunk by chunk."""
        cols, codes = self._w.shape[1], []
        for start in range(0, cols, self._chunk):
            codes += self._swept_chunk(start, min(start + self._chunk, cols))
        objective = self._objective - self._errors.square() @ self._factor.added
        return Swept(QTensor(self._spans.format, torch.cat(codes, 1), self._spans.params()), objective)

    def _swept_chunk(self, start: int, stop: int) -> list[torch.Tensor]:
        """Codes of columns `start` to `stop`."""
        vector, codes = self._spans.format.vector, []
        upper = in_vectors(self._factor.upper[:stop, start:stop], vector)
        target = self._w[:, start:stop].double() + self._errors[:, :start] @ upper[:start]
        for at in range(start, stop, vector):
            here = slice(at - start, at - start + vector)
            code, value = self._spans.round(target, start, at, at + vector)
            codes.append(code)
            error = self._w[:, at : at + vector].double() - value
            self._errors[:, at : at + vector] = error
            self._objective += self._cost(target[:, here] - value, at, at + vector)
            target[:, here.stop :] += error @ upper[at : at + vector, here.stop :]
        return codes

    def _cost(self, missed: torch.Tensor, at: int, end: int) -> torch.Tensor:
        """What (rows,) it costs that columns missed their targets by `missed` (rows, vector)."""
        if end - at > 1:
            missed = missed @ self._factor.upper[at:end, at:end]
        return missed.square() @ self._factor.energy[at:end]


class _Spans:
    """The grids that columns are rounded to, span after span."""

    def __init__(self, format: Format, params: Params, importance: torch.Tensor) -> None:
        self.format = format
        self._importance = importance
        self._params = params
        self._alone = format.span > 1 and not params.rows and _are_apart(format)
        self._found: list[Params] = []

    def round(self, target: torch.Tensor, start: int, at: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of columns `at` to `end`, and the numbers that come back; `target` (rows, cols) begins at `start`."""
        span = self.format.span
        if self._alone and at % span == 0:
            x = target[:, at - start : at - start + span].float()
            weights = self.format.weights(x, self._importance[at : at + span])
            self._found.append(self.format.fit(x, importance=weights))
        grid = self._grid(at, end)
        codes = grid.nearest(target[:, at - start : end - start].float().contiguous())
        return codes, grid.value(codes).double()

    def _grid(self, at: int, end: int) -> Grid:
        if not self._alone:
            return self.format.grid(self._params, slice(at, end))
        first = at // self.format.span * self.format.span
        return self.format.grid(self._found[-1], slice(at - first, end - first))

    def params(self) -> Params:
        """The parameters of all columns."""
        return Params.side_by_side(self._found) if self._alone else self._params


def _are_apart(format: Format) -> bool:
    """Whether two spans store twice what one stores, so that no parameter belongs to both."""
    one, two = (format.bits(1, n * format.span) for n in (1, 2))
    return two == 2 * one


def chunk_of(format: Format, wanted: int) -> int:
    """Columns of a chunk: whole spans, at least one, of about `wanted` columns; vectors where a span is all columns."""
    span = max(format.span, format.vector)
    return max(1, wanted // span) * span


def in_vectors(upper: torch.Tensor, vector: int) -> torch.Tensor:
    """The last columns of a triangle `upper` (n, cols) as vectors need them: without the feedback inside a vector."""
    if vector == 1:
        return upper
    first, made = upper.shape[0] - upper.shape[1], []
    for at in range(0, upper.shape[1], vector):
        own = upper[first + at : first + at + vector, at : at + vector]
        made.append(torch.linalg.solve_triangular(own, upper[:, at : at + vector], upper=True, left=False))
    return torch.cat(made, 1)
