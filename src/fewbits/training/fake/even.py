"""The rounding of evenly spaced numbers and its gradients, a few rows at a time: what training spends its time on.

`steps.stepped` says the same of any grid in plain torch; here nothing of a matrix's size is made but its results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fewbits.formats.exact import inverse

AT_A_TIME = 1 << 16
"""Numbers that stay in a processor's cache from one operation to the next."""


@dataclass(frozen=True)
class _Part:
    """Some lines of a matrix in groups, and the lines of its parameters that are theirs."""

    lines: slice
    inverse: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None
    low: torch.Tensor | float
    high: torch.Tensor | float

    def steps(self, w: torch.Tensor) -> torch.Tensor:
        """How many steps of the grid `w` (lines, groups, length) is from 0."""
        own = w[self.lines]
        return own * self.inverse if self.offset is None else torch.add(own, self.offset).mul_(self.inverse)


@dataclass(frozen=True)
class Even:
    """scale * (code - zero) - offset with codes from `bottom` to `top`; parameters are (lines, groups, 1)."""

    scale: torch.Tensor
    offset: torch.Tensor | None
    zero: torch.Tensor | float
    bottom: int
    top: int

    def parts(self, w: torch.Tensor) -> Iterator[_Part]:
        """The matrix `w` (lines, groups, length), a few lines at a time."""
        step = max(1, AT_A_TIME // max(1, w[0].numel()))
        inverses, shared = inverse(self.scale), len(self.scale) == 1
        for start in range(0, len(w), step):
            lines = slice(start, start + step)
            own = slice(None) if shared else lines
            zero = self.zero[own] if isinstance(self.zero, torch.Tensor) else self.zero
            yield _Part(
                lines,
                inverses[own],
                self.scale[own],
                None if self.offset is None else self.offset[own],
                self.bottom - zero,
                self.top - zero,
            )


class _Rounded(torch.autograd.Function):
    """Numbers on the grid, with the gradients of learned steps (`straight.stepped`)."""

    @staticmethod
    def forward(
        ctx: Any,
        w: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor | None,
        zero: torch.Tensor | None,
        grid: Even,
    ) -> torch.Tensor:
        """What `w` becomes."""
        ctx.save_for_backward(w)
        ctx.grid = grid
        found = torch.empty_like(w)
        for part in grid.parts(w):
            steps = torch.clamp(part.steps(w).round_(), part.low, part.high)  # type: ignore[arg-type]
            torch.mul(steps, part.scale, out=found[part.lines])
            if part.offset is not None:
                found[part.lines].sub_(part.offset)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the numbers and of what they share."""
        (w,), grid, wants = ctx.saved_tensors, ctx.grid, ctx.needs_input_grad
        grad = grads[0]
        passed, sums = torch.empty_like(w), [[], [], []]  # type: ignore[var-annotated]
        for part in grid.parts(w):
            own, steps = grad[part.lines], part.steps(w)
            inside = (steps >= part.low - 0.5).logical_and_(steps <= part.high + 0.5)
            kept = torch.mul(own, inside, out=passed[part.lines])
            if wants[1]:
                codes = torch.clamp(steps.round(), part.low, part.high)
                sums[0].append((codes.mul_(own)).sub_(steps.mul_(kept)).sum(-1, keepdim=True))
            if wants[2] or wants[3]:
                clipped = (kept - own).sum(-1, keepdim=True)
                sums[1].append(clipped)
                sums[2].append(clipped * part.scale)
        found = [torch.cat(each).sum_to_size(grid.scale.shape) if each else None for each in sums]
        chosen = [each if wanted else None for each, wanted in zip(found, wants[1:4], strict=True)]
        return passed if wants[0] else None, *chosen, None


def even_rounded(
    w: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor | None,
    zero: torch.Tensor | None,
    *,
    middle: float,
    codes: tuple[int, int],
) -> torch.Tensor:
    """What `w` (lines, groups, length) becomes on the grid of `scale`, `offset` and `zero` (lines, groups, 1).

    Where there is no `zero`, the code `middle` is that of 0. Gradients are those of `straight.stepped`, for numbers
    that lie within half a step of the grid's ends.

    >>> w, scale = torch.tensor([[[0.6, 9.0]]]), torch.tensor([[[1.0]]], requires_grad=True)
    >>> even_rounded(w, scale, None, None, middle=0.0, codes=(0, 7)).sum().backward()
    >>> scale.grad
    tensor([[[7.4000]]])
    """
    grid = Even(scale.detach(), None if offset is None else offset.detach(), middle, *codes)
    if zero is not None:
        grid = Even(grid.scale, grid.offset, zero.detach(), *codes)
    found: torch.Tensor = _Rounded.apply(w, scale, offset, zero, grid)  # type: ignore[no-untyped-call]
    return found
