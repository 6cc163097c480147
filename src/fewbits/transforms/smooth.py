"""SmoothQuant: the largest inputs become smaller and their columns larger, so that both can be rounded to 8 bits."""

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
class Smooth:
    """Columns times s = max|x|^a / max|w|^(1 - a) (Xiao et al. 2022, arXiv:2211.10438, equation 4), a of a grid.

    The power is tried out: inputs that were measured are divided and rounded as at run time, matrices multiplied and
    rounded to nearest in their own formats, and what is wrong with their products counts. Nothing changes where nothing
    is better than that.
    """

    name: str = "smooth"
    needs: frozenset[str] = frozenset({"absmax", "inputs"})
    powers: tuple[float, ...] = tuple(n / 20 for n in range(1, 20))
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
        """Edits by stats["inputs"] (tokens, cols), some of the consumers' input, and stats["absmax"] (cols,) of all.

        None where inputs are not rounded.
        """
        if rounding is None:
            return Edits()
        whole = numbers_of(group, weights)
        largest = group.shared(stats["absmax"].double(), largest=True)
        columns = torch.stack([w.abs().amax(0) for w in whole.values()]).amax(0).double()
        reach = group.shared(columns, largest=True)
        numbers = {name: some_rows(w, self.rows).float() for name, w in whole.items()}
        inputs = stats["inputs"].float()
        best, factor = products_error(numbers, formats, inputs, torch.ones(inputs.shape[1]).double(), rounding), None
        for power in self.powers:
            candidate = tamed(largest**power / reach ** (1 - power))
            error = products_error(numbers, formats, inputs, group.spread(candidate), rounding)
            if error < best:
                best, factor = error, candidate
        return Edits() if factor is None else scaled(group, factor)


def products_error(
    numbers: Mapping[str, torch.Tensor],
    formats: Mapping[str, Format],
    inputs: torch.Tensor,
    factor: torch.Tensor,
    rounding: Rounding,
) -> float:
    """The sum of squared errors of products of rounded inputs (tokens, cols) / factor and rounded matrices * factor."""
    divided = (inputs / factor).float()
    importance = divided.double().square().mean(0)
    mean = importance.mean()
    importance = (importance / torch.where(mean > 0, mean, 1.0)).clamp(min=2.0**-20).float()
    x, total = rounding(divided), 0.0
    for name, w in numbers.items():
        codes, params = encode(formats[name], (w.double() * factor).float(), importance)
        missed = x @ formats[name].decode(codes, params).T - inputs @ w.T
        total += float(missed.double().square().sum())
    return total
