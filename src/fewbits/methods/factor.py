"""What error feedback needs of a Hessian: how much of a column's error each of the columns to come makes up for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

DAMPING = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean of H's diagonal that are added to it, tried one after another until it is positive definite."""

PANEL = 256
"""Columns whose costs are counted together."""


@dataclass(frozen=True)
class Factor:
    """H + diag(added) = U diag(energy) U^T, U upper triangular with ones on its diagonal, all in float64.

    Errors E (rows, cols) then cost tr(E (H + diag(added)) E^T) = sum over columns k of energy[k] * |E U[:, k]|^2: where
    column k is rounded after those before it, nearest to w[:, k] + E[:, :k] U[:k, k], its own term is as small as it
    can be. That is GPTQ's update written without an inverse (LDLQ; Chee et al. 2023, arXiv:2307.13304, section 3).

    >>> import torch
    >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> f = factored(h)
    >>> torch.allclose(f.upper @ f.energy.diag() @ f.upper.T, h.double() + f.added.diag())
    True
    """

    upper: torch.Tensor
    energy: torch.Tensor
    added: torch.Tensor
    damping: float
    """The share of the mean of H's diagonal that was added to it."""
    order: torch.Tensor | None = None
    """(cols,) int64: the columns in the order in which they are rounded, which is that of all that is here."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was decided on the way, where it is not the ordinary."""
        return () if self.damping == DAMPING[0] else (f"damping {self.damping:g}",)

    def cost(self, errors: torch.Tensor) -> torch.Tensor:
        """tr(E H E^T) row by row, (rows,) float64, of `errors` E (rows, cols), in the precision of E."""
        errors = self.ordered(errors)
        total = self._of_damping(errors)
        for start in range(0, errors.shape[1], PANEL):
            total += self._of_panel(errors, start)
        return total

    def dearer(self, errors: torch.Tensor, than: torch.Tensor) -> torch.Tensor:
        """Which rows of `errors` (rows, cols) cost more than `than` (rows,): bool, most rows known long before the end.

        No column makes a row cheaper, and the first ones take the least work.
        """
        errors = self.ordered(errors)
        total, rows = self._of_damping(errors), torch.arange(len(errors), device=errors.device)
        for start in range(0, errors.shape[1], PANEL):
            total[rows] += self._of_panel(errors, start)
            undecided = total[rows] <= than[rows]
            if not bool(undecided.any()):
                break
            if 2 * int(undecided.sum()) < len(rows):
                rows, errors = rows[undecided], errors[undecided]
        return total > than

    def ordered(self, w: torch.Tensor) -> torch.Tensor:
        """`w` (rows, cols) with its columns in the order of the sweep."""
        return w if self.order is None else w[:, self.order]

    def _of_damping(self, errors: torch.Tensor) -> torch.Tensor:
        return -(errors.double().square() @ self.added)

    def _of_panel(self, errors: torch.Tensor, start: int) -> torch.Tensor:
        stop = min(start + PANEL, errors.shape[1])
        moved = errors[:, :stop] @ self.upper[:stop, start:stop].to(errors.dtype)
        return moved.double().square() @ self.energy[start:stop]


def factored(hessian: torch.Tensor, order: torch.Tensor | None = None) -> Factor:
    """The factor of `hessian` (cols, cols), which matrices with the same inputs share; `order` is that of the sweep.

    Columns that no input ever reached count as if they were reached alone. Raises CalibrationError where H holds no
    number, or where no damping helps.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise CalibrationError(
            "the inputs of this matrix hold NaN or infinite numbers; the model or its text is damaged."
        )
    if order is not None:
        hessian = hessian[order][:, order]
    diagonal = hessian.diagonal().double()
    for share, added in _dampings(diagonal):
        turned = hessian.double().flip(0, 1)  # the last column's own turn comes last, and Cholesky's begins with it
        turned.diagonal().add_(added.flip(0))
        lower, fails = torch.linalg.cholesky_ex(turned)
        if int(fails) == 0:
            root = lower.diagonal().clone()
            upper = lower.div_(root).flip(0, 1)
            return Factor(upper, root.square().flip(0), added, share, order)
    raise CalibrationError("the inputs of this matrix are too much alike to tell its columns apart; give more text.")


def _dampings(diagonal: torch.Tensor) -> Iterator[tuple[float, torch.Tensor]]:
    """What to add to H's diagonal (cols,), one try after another."""
    mean = diagonal.mean()
    alone = torch.where(mean > 0, mean, torch.ones_like(mean))
    dead = torch.where(diagonal > 0, torch.zeros_like(diagonal), alone)
    for share in DAMPING:
        yield share, dead + share * mean
