"""What error feedback needs of a Hessian: how much of a column's error each of the columns to come makes up for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fewbits.errors import CalibrationError
from fewbits.formats.overrides import add_product
from fewbits.lazy import LazyModule
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

DAMPING = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean of H's diagonal that are added to it, tried one after another until it is positive definite."""

PANEL = 256
"""Columns whose costs are counted together."""

STRIPE = 256
"""Columns of a factor that are found together."""

TILE = 1024
"""Rows or columns before a stripe that one thread brings up to date."""


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


def factored(hessian: torch.Tensor, order: torch.Tensor | None = None, workers: Workers | None = None) -> Factor:
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
        upper = hessian.to(torch.float64, copy=True)
        upper.diagonal().add_(added)
        if _is_factored(upper, workers):
            root = upper.diagonal().clone()
            return Factor(upper.div_(root), root.square(), added, share, order)
    raise CalibrationError("the inputs of this matrix are too much alike to tell its columns apart; give more text.")


def _is_factored(a: torch.Tensor, workers: Workers | None) -> bool:
    """Make of `a` (cols, cols), in its place, the upper triangular R with a = R R^T; False where there is none.

    Stripe after stripe of columns, the last ones first. What a stripe leaves of the columns before it is taken from
    them tile by tile, each on one thread: how many threads there are changes nothing.
    """
    in_order = workers.in_order if workers else _one_by_one
    for start in range((len(a) - 1) // STRIPE * STRIPE, -1, -STRIPE):
        own = a[start : start + STRIPE, start : start + STRIPE]
        lower, fails = torch.linalg.cholesky_ex(own.flip(0, 1))  # Cholesky's begins with the first column
        if int(fails):
            return False
        own.copy_(lower.flip(0, 1))
        tiles = [slice(at, min(at + TILE, start)) for at in range(0, start, TILE)]
        for step in (partial(_settle, a, own, start), partial(_take_away, a, start)):
            for _ in in_order(step, tiles[::-1]):
                pass
    a.triu_()
    return True


def _settle(a: torch.Tensor, own: torch.Tensor, start: int, rows: slice) -> None:
    """The stripe's columns of R in `rows`."""
    stripe = a[rows, start : start + len(own)]
    stripe.copy_(torch.linalg.solve_triangular(own.T, stripe, upper=False, left=False))


def _take_away(a: torch.Tensor, start: int, columns: slice) -> None:
    """What the stripe's columns are in a[:, columns], down to the diagonal."""
    stripe = a[: columns.stop, start : start + STRIPE]
    add_product(a[: columns.stop, columns], stripe, stripe[columns].T, minus=True)


def _one_by_one(function: Callable[[slice], None], items: Iterable[slice]) -> Iterator[tuple[slice, None]]:
    for item in items:
        function(item)
        yield item, None


def _dampings(diagonal: torch.Tensor) -> Iterator[tuple[float, torch.Tensor]]:
    """What to add to H's diagonal (cols,), one try after another."""
    mean = diagonal.mean()
    alone = torch.where(mean > 0, mean, torch.ones_like(mean))
    dead = torch.where(diagonal > 0, torch.zeros_like(diagonal), alone)
    for share in DAMPING:
        yield share, dead + share * mean
