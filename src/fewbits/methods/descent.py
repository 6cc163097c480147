"""Codes that are changed one column after another, each to the best one while the others stay: coordinate descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats import overrides
from fewbits.formats.base import Grid
from fewbits.formats.overrides import Feedback
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

CHUNK = 128
"""Columns after which the others learn of what has changed: it changes the time, not the result."""


@dataclass(frozen=True)
class Part:
    """Some columns of a matrix, and how their errors e (rows, cols) cost: e H e^T + 2 e c^T, row by row.

    H (cols, cols) is what the Hessian holds of these columns; c (rows, cols) the errors of the other columns times
    their rows of the Hessian. All in float64.
    """

    w: torch.Tensor
    hessian: torch.Tensor
    outside: torch.Tensor

    def cost(self, value: torch.Tensor) -> torch.Tensor:
        """(rows, 1) of the numbers `value` (rows, cols) in place of w, but for what the other columns cost alone."""
        error = self.w - value
        return ((error @ self.hessian + 2 * self.outside) * error).sum(1, keepdim=True)

    def target(self, damping: float = 0.01) -> torch.Tensor:
        """(rows, cols): the numbers that cost least, w + c H^-1, were all numbers allowed."""
        if not bool(self.outside.any()):
            return self.w
        diagonal = self.hessian.diagonal()
        ridge = (damping * diagonal.mean()).clamp(min=1e-30) + torch.where(diagonal > 0, 0.0, diagonal.mean())
        solved: torch.Tensor = torch.linalg.solve(self.hessian + torch.diag(ridge), self.outside, left=False)
        return self.w + solved


def descend(part: Part, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """Codes (rows, vectors) after one pass over the columns of `part`, each taking its best number in `grid`.

    With the other columns as they are, the cost of one is a parabola around the number w + (E H)_j / H_jj - e_j, so the
    nearest number is the best one: cyclic coordinate descent (QuantEase, Behdin et al. 2023, arXiv:2309.01885,
    algorithm 1). A vector takes the point nearest to its best numbers, where that costs less. No row ever costs more.
    """
    found = _descended_natively(part, grid, codes) if grid.vector == 1 else None
    return _descended(part, grid, codes) if found is None else found


def _descended_natively(part: Part, grid: Grid, codes: torch.Tensor) -> torch.Tensor | None:
    """The same as error feedback: column k is rounded to w + (E H)_k / H_kk, its own error left out.

    What the columns after it, and those of other chunks, make of that is known before the chunk begins.
    """
    value = grid.value(codes).double()
    error, found = part.w - value, []
    for start in range(0, value.shape[1], CHUNK):
        cols = slice(start, min(start + CHUNK, value.shape[1]))
        corner = part.hessian[cols, cols]
        reached = corner.diagonal() > 0
        share = torch.where(reached, 1 / torch.where(reached, corner.diagonal(), 1.0), 0.0)
        later = part.outside[:, cols] + error @ part.hessian[:, cols] - error[:, cols] @ corner.triu()
        target = torch.where(reached, part.w[:, cols] + later * share, value[:, cols])
        numbers, even = part.w[:, cols].float(), torch.ones(target.shape[1], device=target.device)
        feedback = Feedback(numbers, target, corner.triu(1) * share, torch.zeros_like(target), even)
        rounded = overrides.round_columns(grid.columns(cols.start, cols.stop), feedback)
        if rounded is None:
            return None
        found.append(rounded)
        error[:, cols] = feedback.errors
    return torch.cat(found, 1)


def _descended(part: Part, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """The same in torch, where no native kernel rounds columns of this grid, and for vectors."""
    codes = codes.clone()
    value = grid.value(codes).double()
    error = part.w - value
    for start in range(0, value.shape[1], CHUNK):
        stop = min(start + CHUNK, value.shape[1])
        slope = part.outside[:, start:stop] + error @ part.hessian[:, start:stop]
        for at in range(start, stop, grid.vector):
            end = at + grid.vector
            code, step = _improved(
                part, grid.columns(at, end), value[:, at:end], slope[:, at - start : end - start], at
            )
            place = slice(at // grid.vector, end // grid.vector)
            codes[:, place] = torch.where((step != 0).any(1, keepdim=True), code, codes[:, place])
            error[:, at:end] += step
            slope += step @ part.hessian[at:end, start:stop]
    return codes


def _improved(
    part: Part, grid: Grid, value: torch.Tensor, slope: torch.Tensor, at: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (rows, 1), and how they change the errors (rows, vector) of the columns from `at`: by 0 if in vain."""
    corner = part.hessian[at : at + grid.vector, at : at + grid.vector]
    codes = _proposed(grid, (value + _solved(corner, slope)).contiguous(), corner.diagonal().float())
    step = value - grid.value(codes).double()
    lower = ((step @ corner + 2 * slope) * step).sum(1, keepdim=True) < 0
    return codes, torch.where(lower, step, torch.zeros_like(step))


def _proposed(grid: Grid, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Codes (rows, 1) near to `wanted` (rows, vector) float64; natively, errors of vectors weighed by `weight`."""
    numbers, nothing = wanted.float(), torch.zeros(len(weight), len(weight)).to(wanted)
    weight = torch.where(weight > 0, weight, torch.ones_like(weight))
    feedback = Feedback(numbers, wanted.clone(), nothing, torch.zeros_like(wanted), weight)
    codes = overrides.round_columns(grid, feedback) if grid.vector > 1 else None
    return grid.nearest(numbers) if codes is None else codes


def _solved(corner: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """How far the best numbers are, slope * corner^-1, (rows, vector); 0 where no input reaches the columns."""
    if len(corner) == 1:
        return slope / corner if bool(corner > 0) else torch.zeros_like(slope)
    ridge = (1e-6 * corner.diagonal().mean()).clamp(min=1e-30)
    solved: torch.Tensor = torch.linalg.solve(corner + ridge * torch.eye(len(corner)).to(corner), slope, left=False)
    return solved
