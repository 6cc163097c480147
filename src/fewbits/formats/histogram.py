"""How often each magnitude of number occurs in a tensor, from one pass over its slabs in any cuts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.steps import Measured
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

BINS = 2**16


@dataclass
class Histogram:
    """Counts of numbers by the upper 16 bits of their float32: bins 1/128 wide in any magnitude, nothing to choose.

    Counts, smallest and largest numbers of a bin do not depend on the order in which numbers come.

    >>> import torch
    >>> values, counts = Histogram.of([torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, -2.0]])]).points()
    >>> values.tolist(), counts.tolist()
    ([-2.0, 1.0, 3.0], [1.0, 2.0, 1.0])
    """

    counts: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    device: torch.device | str = "cpu"
    """Where the numbers that were counted lie; the counts are on the CPU, where no order of additions is left open."""

    @staticmethod
    def of(slabs: Iterable[torch.Tensor]) -> Histogram:
        """The histogram of all numbers in `slabs`, float32 of any shape."""
        found = Histogram(
            torch.zeros(BINS, dtype=torch.int64), torch.full((BINS,), torch.inf), torch.full((BINS,), -torch.inf)
        )
        for slab in slabs:
            found.add(slab)
        return found

    def add(self, x: torch.Tensor) -> None:
        """Count the numbers of `x`."""
        self.device = x.device
        flat = (x + 0.0).flatten().cpu()  # no zero of its own sign
        bins = (flat.view(torch.int32) >> 16).long() & (BINS - 1)
        self.counts += torch.bincount(bins, minlength=BINS)
        self.low.scatter_reduce_(0, bins, flat, "amin")
        self.high.scatter_reduce_(0, bins, flat, "amax")

    def measured(self) -> Measured:
        """The tensor as one span for a search, on its device: its numbers once each, weighted by their counts."""
        values, counts = (part.to(self.device) for part in self.points())
        return Measured.of(values[None, None], counts[None, None])

    def points(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(numbers, counts) float64, numbers ascending: each bin stands at the middle of what it holds."""
        held = self.counts > 0
        middle = (self.low[held].double() + self.high[held].double()) / 2
        order = middle.argsort(stable=True)
        return middle[order], self.counts[held][order].double()
