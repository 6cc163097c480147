"""Outlier columns: those whose inputs are far larger than the others stay in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

THRESHOLD = 6.0
"""Where inputs are outliers: Dettmers et al. 2022, section 3.2."""


@dataclass(frozen=True)
class OutlierSplit:
    """The columns of a matrix whose inputs reach `threshold` stay in 16 bits."""

    name: str = "outliers"
    needs: frozenset[str] = frozenset({"absmax"})
    threshold: float = THRESHOLD

    def columns(self, absmax: torch.Tensor) -> torch.Tensor:
        """(n,) int64, ascending, for inputs whose largest magnitudes are `absmax` (cols,)."""
        return (absmax >= self.threshold).nonzero().flatten()


@dataclass(frozen=True)
class Split:
    """The columns that stay, their numbers, and what is left to be rounded."""

    index: torch.Tensor
    """(n,) int64, ascending."""
    kept: torch.Tensor
    """(rows, n) float16."""
    rest: torch.Tensor
    """(rows, cols): the matrix, with 0 in the columns that stay."""


def split(w: torch.Tensor, absmax: torch.Tensor, threshold: float = THRESHOLD) -> Split:
    """Take the columns of `w` (rows, cols) out whose inputs reach `threshold`, `absmax` (cols,) being their largest.

    Dettmers et al. 2022 (LLM.int8(), arXiv:2208.07339, section 3.2). The rounded rest gets them back with
    `QTensor.with_outliers`.

    >>> import torch
    >>> parts = split(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5, 60.0, 6.0]))
    >>> parts.index.tolist(), parts.kept.tolist(), parts.rest.tolist()
    ([1, 2], [[2.0, 3.0]], [[1.0, 0.0, 0.0]])
    """
    return taken_out(w, OutlierSplit(threshold=threshold).columns(absmax))


def taken_out(w: torch.Tensor, columns: torch.Tensor) -> Split:
    """The same for given `columns` (n,) int64, ascending."""
    rest = w.clone()
    rest[:, columns] = 0
    return Split(columns, w[:, columns].half(), rest)
