"""Inputs of a matrix as they are: their largest magnitudes, and some of them to try things on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.calibration.stats import AbsMax
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

EACH = 32
"""Tokens of a batch that are kept, evenly spread."""
MOST = 256
"""Tokens that are kept in all: those of the first batches."""


class Seen:
    """What reached one matrix; batches come in their order, so it is the same for any number of threads.

    >>> import torch
    >>> seen = Seen(2)
    >>> seen.take(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
    >>> seen.absmax.tolist(), seen.inputs.tolist()
    ([3.0, 2.0], [[1.0, -2.0], [3.0, 0.5]])
    """

    def __init__(self, cols: int) -> None:
        self._largest = AbsMax(cols)
        self._some: list[torch.Tensor] = []

    def take(self, x: torch.Tensor) -> None:
        """See the tokens of `x` (tokens, cols)."""
        self._largest.update(x)
        room = min(EACH, len(x), MOST - sum(map(len, self._some)))
        if room > 0:
            self._some.append(x[torch.arange(room) * len(x) // room].float())

    @property
    def absmax(self) -> torch.Tensor:
        """The largest magnitude per column, (cols,); raises CalibrationError where no token was seen."""
        return self._largest.value

    @property
    def inputs(self) -> torch.Tensor:
        """Some tokens (n, cols) float32."""
        return torch.cat(self._some)
