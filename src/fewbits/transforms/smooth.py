"""SmoothQuant: the largest inputs become smaller and their columns larger, so that both can be rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format
from fewbits.lazy import LazyModule
from fewbits.transforms.awq import outputs_error
from fewbits.transforms.base import numbers_of, scaled, some_rows, tamed
from fewbits.transforms.edits import Edits
from fewbits.transforms.groups import Group

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class Smooth:
    """Columns times s = max|x|^a / max|w|^(1 - a) (Xiao et al. 2022, arXiv:2211.10438, equation 4), a of a grid.

    The power is chosen by the error of outputs: what rounding the weights leaves, tr(E H E^T), and what rounding the
    inputs leaves, which is even within a step of max|x / s| / levels and so costs step^2 / 12 times the sum of (w s)^2.
    """

    name: str = "smooth"
    needs: frozenset[str] = frozenset({"hessian", "absmax"})
    powers: tuple[float, ...] = tuple(n / 20 for n in range(1, 20))
    levels: float = 127.0
    """Steps from 0 to the largest input: 127 for 8 bits with a sign, one scale per token."""
    rows: int = 512
    """Rows of a matrix, at most, by which the power is chosen."""

    def edits(
        self,
        group: Group,
        weights: Mapping[str, torch.Tensor],
        formats: Mapping[str, Format],
        stats: Mapping[str, Any],
    ) -> Edits:
        """Edits by stats["hessian"] (cols, cols) and stats["absmax"] (cols,) of the consumers' input."""
        whole = numbers_of(group, weights)
        largest = group.shared(stats["absmax"].double(), largest=True)
        columns = torch.stack([w.abs().amax(0) for w in whole.values()]).amax(0).double()
        reach = group.shared(columns, largest=True)
        numbers = {name: some_rows(w, self.rows).float() for name, w in whole.items()}
        best, factor = self._error(numbers, formats, stats, torch.ones_like(stats["absmax"]).double()), None
        for power in self.powers:
            candidate = tamed(largest**power / reach ** (1 - power))
            error = self._error(numbers, formats, stats, group.spread(candidate))
            if error < best:
                best, factor = error, candidate
        return Edits() if factor is None else scaled(group, factor)

    def _error(
        self,
        numbers: Mapping[str, torch.Tensor],
        formats: Mapping[str, Format],
        stats: Mapping[str, Any],
        factor: torch.Tensor,
    ) -> float:
        step = (stats["absmax"].double() / factor).amax() / self.levels
        inputs = sum(float((w.double() * factor).square().sum()) for w in numbers.values())
        return outputs_error(numbers, formats, stats["hessian"].double(), factor) + float(step) ** 2 / 12 * inputs
