"""Statistics of the inputs of a matrix: `update` with tokens, `merge` what was measured elsewhere, read the `value`.

Inputs are x (tokens, cols), on any device. Sums grow in float64 where they are one number per column, and in float32
where they are a square: a Hessian of 8192 columns takes 256 MB already, and rounding errors of 1e-7 of its largest
entry are far below the damping that every use of it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fewbits.errors import CalibrationError
from fewbits.kernels.products import add_products
from fewbits.lazy import LazyModule
from fewbits.registry import Registry

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Other_contra = TypeVar("Other_contra", contravariant=True)


class Stat(Protocol[Other_contra]):
    """One statistic of one matrix's inputs."""

    @property
    def tokens(self) -> int:
        """How many tokens were seen."""

    @property
    def value(self) -> torch.Tensor:
        """What was measured; raises CalibrationError where no token was seen."""

    def update(self, x: torch.Tensor) -> None:
        """See the tokens of `x` (tokens, cols)."""

    def merge(self, other: Other_contra) -> None:
        """See what `other` has seen."""


class Counted:
    """What statistics share: the number of tokens, and the refusal to speak without any."""

    def __init__(self, cols: int) -> None:
        self.cols = cols
        self.tokens = 0

    def _count(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as (tokens, cols), counted."""
        tokens = x.reshape(-1, x.shape[-1])
        if tokens.shape[1] != self.cols:
            raise CalibrationError(
                f"inputs have {tokens.shape[1]} columns and the matrix has {self.cols}; this is a bug."
            )
        self.tokens += len(tokens)
        return tokens

    def _require_tokens(self) -> None:
        if self.tokens == 0:
            raise CalibrationError(
                "no token of the calibration text reached this matrix; give more text, or of other kinds."
            )


class MinMax(Counted):
    """The smallest and the largest number per column, (2, cols) float32.

    >>> import torch
    >>> stat = MinMax(2)
    >>> stat.update(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
    >>> stat.value.tolist()
    [[1.0, -2.0], [3.0, 0.5]]
    """

    def __init__(self, cols: int) -> None:
        super().__init__(cols)
        self._low = torch.full((cols,), torch.inf)
        self._high = torch.full((cols,), -torch.inf)

    @property
    def value(self) -> torch.Tensor:
        """(2, cols)."""
        self._require_tokens()
        return torch.stack([self._low, self._high])

    def update(self, x: torch.Tensor) -> None:
        """See the tokens of `x`."""
        tokens = self._count(x)
        if not len(tokens):  # an expert that nothing was sent to
            return
        low, high = tokens.float().aminmax(dim=0)
        self._low, self._high = torch.minimum(self._low.to(x.device), low), torch.maximum(self._high.to(x.device), high)

    def merge(self, other: MinMax) -> None:
        """See what `other` has seen."""
        self.tokens += other.tokens
        device = self._low.device
        self._low = torch.minimum(self._low, other._low.to(device))
        self._high = torch.maximum(self._high, other._high.to(device))


class AbsMax(MinMax):
    """The largest magnitude per column, (cols,) float32."""

    @property
    def value(self) -> torch.Tensor:
        """(cols,)."""
        self._require_tokens()
        return torch.maximum(self._low.abs(), self._high.abs())


class _Mean(Counted):
    """A mean per column, (cols,) float32, of what `_each` makes of the numbers."""

    def __init__(self, cols: int) -> None:
        super().__init__(cols)
        self._sum = torch.zeros(cols, dtype=torch.float64)

    @property
    def value(self) -> torch.Tensor:
        """(cols,)."""
        self._require_tokens()
        return (self._sum / self.tokens).float()

    def update(self, x: torch.Tensor) -> None:
        """See the tokens of `x`."""
        self._sum = self._sum.to(x.device) + self._each(self._count(x).double()).sum(0)

    def merge(self, other: _Mean) -> None:
        """See what `other` has seen."""
        self.tokens += other.tokens
        self._sum = self._sum + other._sum.to(self._sum.device)

    def _each(self, x: torch.Tensor) -> torch.Tensor:
        return x


class RunningAverage(_Mean):
    """The mean per column, (cols,) float32: what rounding errors of a matrix are multiplied with on average.

    >>> import torch
    >>> stat = RunningAverage(2)
    >>> stat.update(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    >>> stat.value.tolist()
    [2.0, -1.0]
    """


class MeanSquare(_Mean):
    """The mean of squares per column, (cols,) float32: what llama.cpp's imatrix holds.

    >>> import torch
    >>> stat = MeanSquare(2)
    >>> stat.update(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    >>> stat.value.tolist()
    [5.0, 2.0]
    """

    @property
    def sums(self) -> torch.Tensor:
        """The sums of squares (cols,) float64; zeros where no token was seen. An importance matrix stores them."""
        return self._sum

    def _each(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()


class Hessian(Counted):
    """The mean of x^T x over tokens, (cols, cols) float32: how errors of the columns of a matrix add up in its outputs.

    The squared error of outputs that an error E (rows, cols) of the matrix makes is tr(E H E^T) per token.

    >>> import torch
    >>> stat = Hessian(2)
    >>> stat.update(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    >>> stat.value.tolist()
    [[5.0, -1.0], [-1.0, 2.0]]
    """

    def __init__(self, cols: int) -> None:
        super().__init__(cols)
        self._sum = torch.zeros(cols, cols)

    @property
    def value(self) -> torch.Tensor:
        """(cols, cols)."""
        self._require_tokens()
        return self._sum / self.tokens

    @property
    def mean_square(self) -> torch.Tensor:
        """The diagonal of `value` (cols,), without the rest of it."""
        self._require_tokens()
        return self._sum.diagonal() / self.tokens

    def update(self, x: torch.Tensor) -> None:
        """See the tokens of `x`."""
        tokens = self._count(x).float()
        self._sum = self._sum.to(x.device).addmm_(tokens.T, tokens)

    def add_columns(self, x: torch.Tensor, columns: slice) -> None:
        """Add `x` (tokens, cols) to a few columns of the sum, down to the diagonal; `mirror` fills the rest.

        Several threads can grow one sum, each its columns; who calls this counts `tokens`.
        """
        if not add_products(x, columns, self._sum):
            above = x[:, : columns.stop].float()
            self._sum[: columns.stop, columns].addmm_(above.T, above[:, columns.start :])

    def mirror(self) -> None:
        """Make the sum symmetric after `add_columns`."""
        self._sum = self._sum.triu_().add_(self._sum.triu(1).T)

    def merge(self, other: Hessian) -> None:
        """See what `other` has seen."""
        self.tokens += other.tokens
        self._sum = self._sum + other._sum.to(self._sum.device)


AnyStat = TypeVar("AnyStat", bound=Stat[Any])


def merged(parts: Sequence[AnyStat]) -> AnyStat:
    """What all of `parts` have seen, in the first of them: neighbours first, then pairs of neighbours, and so on.

    The order of additions depends on the number of parts alone, not on who was ready first.
    """
    if not parts:
        raise CalibrationError("no statistics to merge; this is a bug.")
    left = list(parts)
    while len(left) > 1:
        for one, other in zip(left[::2], left[1::2], strict=False):
            one.merge(other)
        left = left[::2]
    return left[0]


STATS: Registry[Callable[[int], Stat[Any]]] = Registry("statistic", CalibrationError)
STATS.add("absmax", AbsMax)
STATS.add("minmax", MinMax)
STATS.add("running_average", RunningAverage)
STATS.add("mean_square", MeanSquare)
STATS.add("hessian", Hessian)
