"""How often each number occurs among the inputs of a matrix, and what ranges samples have: for static activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.calibration.stats import Counted
from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

KEPT = 18
"""Upper bits of a float32, rounded to them, that tell bins apart: numbers are within 1/1024 of their bin's."""

BINS = 2**KEPT
DROPPED = 32 - KEPT
HALF = 2 ** (DROPPED - 1)


class Histogram(Counted):
    """Counts of numbers over all columns, by the upper bits of their float32: no range to choose, none to outgrow.

    So counts do not depend on pieces or on their order, as they do where bins are stretched as numbers come. `value` is
    (2, n) float64: numbers in ascending order, as their bins have them but for the smallest and the largest, which are
    exact; and how often each occurs.

    >>> import torch
    >>> stat = Histogram(2)
    >>> stat.update(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
    >>> stat.value.tolist()
    [[-2.0, 1.0, 3.0], [1.0, 2.0, 1.0]]
    """

    def __init__(self, cols: int) -> None:
        super().__init__(cols)
        self._counts = torch.zeros(BINS, dtype=torch.int64)
        self._low, self._high = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    @property
    def value(self) -> torch.Tensor:
        """(2, n); raises CalibrationError where a number was NaN or infinite."""
        self._require_tokens()
        if not bool(self._low.isfinite() & self._high.isfinite()):
            raise CalibrationError(
                "the inputs of this matrix hold NaN or infinite numbers; the model or its text is damaged."
            )
        bins = self._counts.nonzero().squeeze(1)
        numbers = (bins << DROPPED).to(torch.int32).view(torch.float32).clamp(self._low, self._high).double()
        order = numbers.argsort(stable=True)
        numbers = numbers[order]
        numbers[0], numbers[-1] = self._low.double(), self._high.double()
        return torch.stack([numbers, self._counts[bins][order].double()])

    def update(self, x: torch.Tensor) -> None:
        """See the numbers of `x`."""
        numbers = self._count(x).float().flatten() + 0.0  # no zero of its own sign
        if not len(numbers):
            return
        bins = (numbers.view(torch.int32) + HALF >> DROPPED).long() & (BINS - 1)
        self._counts = self._counts.to(x.device) + torch.bincount(bins, minlength=BINS)
        low, high = numbers.aminmax()
        self._low, self._high = torch.minimum(self._low.to(x.device), low), torch.maximum(self._high.to(x.device), high)

    def merge(self, other: Histogram) -> None:
        """See what `other` has seen."""
        self.tokens += other.tokens
        device = self._counts.device
        self._counts = self._counts + other._counts.to(device)
        self._low = torch.minimum(self._low.to(device), other._low.to(device))
        self._high = torch.maximum(self._high.to(device), other._high.to(device))


class SampleRange(Counted):
    """The mean over samples of their smallest and their largest number, (2,) float32.

    Samples are windows where inputs are (windows, tokens, cols), and tokens where they are (tokens, cols). Unlike an
    exponential moving average it weighs every sample the same and does not depend on their order.

    >>> import torch
    >>> stat = SampleRange(2)
    >>> stat.update(torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[4.0, -1.0], [5.0, 0.0]]]))
    >>> stat.value.tolist()
    [-1.5, 4.0]
    """

    def __init__(self, cols: int) -> None:
        super().__init__(cols)
        self._sum = torch.zeros(2, dtype=torch.float64)
        self._samples = 0

    @property
    def value(self) -> torch.Tensor:
        """(2,)."""
        self._require_tokens()
        return (self._sum / self._samples).float()

    def update(self, x: torch.Tensor) -> None:
        """See the samples of `x`, (windows, tokens, cols) or (tokens, cols)."""
        if not len(self._count(x)):
            return
        samples = x.float().flatten(1)
        low, high = samples.aminmax(dim=1)
        self._sum = self._sum.to(x.device) + torch.stack([low, high]).double().sum(1)
        self._samples += len(samples)

    def merge(self, other: SampleRange) -> None:
        """See what `other` has seen."""
        self.tokens += other.tokens
        self._samples += other._samples
        self._sum = self._sum + other._sum.to(self._sum.device)
