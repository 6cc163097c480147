"""AWQ: columns that matter are made larger before they are rounded, by a power of how large their inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format
from fewbits.formats.overrides import encode
from fewbits.lazy import LazyModule
from fewbits.transforms.base import Rounding, numbers_of, scaled, some_rows, tamed
from fewbits.transforms.edits import Edits
from fewbits.transforms.groups import Group

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class AWQ:
    """Columns times s = (mean of x^2)^(a/2), a of a grid, by the error of outputs (Lin et al. 2023, arXiv:2306.00978).

    The error is tr(E H E^T) over all consumers (equation 4 there), each rounded to nearest in its own format. With
    a = 0 nothing changes, so it is never larger than without. Where clipping is wanted too, that is a method: `search`.
    """

    name: str = "awq"
    needs: frozenset[str] = frozenset({"hessian"})
    powers: tuple[float, ...] = tuple(n / 20 for n in range(20))
    rows: int = 512
    """Rows of a matrix, at most, by which the power is chosen."""

    def edits(
        self,
        group: Group,
        weights: Mapping[str, torch.Tensor],
        formats: Mapping[str, Format],
        stats: Mapping[str, Any],
        *,
        rounding: Rounding | None = None,
    ) -> Edits:
        """Edits by stats["hessian"] (cols, cols) of the consumers' input; none where nothing is better than none.

        What rounding of inputs costs does not count.
        """
        hessian = stats["hessian"].double()
        size = group.shared(hessian.diagonal()).sqrt()
        numbers = {name: some_rows(w, self.rows).float() for name, w in numbers_of(group, weights).items()}
        best, factor = torch.inf, None
        for power in self.powers:
            candidate = tamed(size**power)
            error = outputs_error(numbers, formats, hessian, group.spread(candidate))
            if error < best:
                best, factor = error, candidate if power else None
        return Edits() if factor is None else scaled(group, factor)


def outputs_error(
    numbers: Mapping[str, torch.Tensor], formats: Mapping[str, Format], hessian: torch.Tensor, factor: torch.Tensor
) -> float:
    """The sum of tr(E H E^T) over matrices whose columns are rounded to nearest times `factor` (cols,) float64."""
    importance = hessian.diagonal() / (factor * factor)
    mean = importance.mean()
    importance = (importance / torch.where(mean > 0, mean, 1.0)).clamp(min=2.0**-20).float()
    total = 0.0
    for name, w in numbers.items():
        larger = (w.double() * factor).float()
        codes, params = encode(formats[name], larger, importance)
        error = formats[name].decode(codes, params).double() / factor - w.double()
        total += float(((error @ hessian) * error).sum())
    return total
