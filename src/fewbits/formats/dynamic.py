"""Parameters found while a model runs: the largest magnitude falls on the largest code, and nothing is searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fewbits.formats.base import Format, Params
from fewbits.formats.exact import divided, inverse

if TYPE_CHECKING:
    import torch


class Dynamic(Format, Protocol):
    """A format whose scale follows from the largest magnitude alone: symmetric integers, small floats."""

    @property
    def furthest(self) -> float:
        """What the largest magnitude of a scope falls on, in scales."""

    def grouped(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) as (lines, scales of a line, numbers that share one)."""

    def stored_scales(self, steps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters that hold the scales `steps` (lines, n) as they are stored."""

    def shared(self, **arrays: torch.Tensor) -> Params:
        """Parameters of which every line serves the rows of the scope."""


def at_largest(format: Dynamic, x: torch.Tensor) -> Params:
    """Parameters for `x` (rows, cols) float32 as a kernel finds them: scale = max |x| / furthest, per scope.

    >>> import torch
    >>> from fewbits import formats
    >>> int8, x = formats.get("int8_row_sym_restricted"), torch.tensor([[254.0, -1.0, 3.0]])
    >>> int8.decode(int8.encode(x, at_largest(int8, x)), at_largest(int8, x))
    tensor([[254.,   0.,   4.]])
    """
    size = format.grouped(x).abs().amax(-1)
    return format.shared(**format.stored_scales(divided(size, format.furthest)))


MOVED_STEPS = 254.0
"""Of 256 codes with a zero point, the steps that dynamic inputs take: all lie within 127 of the middle."""


def at_range(format: Dynamic, x: torch.Tensor) -> Params:
    """Parameters with a zero point for `x` (rows, cols) float32, as a kernel finds them, of a format of 8 bits.

    scale = (largest - smallest number, or 0) / 254 and zero = 1 - round(smallest / scale), per scope.

    >>> import torch
    >>> from fewbits import formats
    >>> int8, x = formats.get("int8_row_asym"), torch.tensor([[250.0, -4.0, 3.4]])
    >>> int8.decode(int8.encode(x, at_range(int8, x)), at_range(int8, x)), at_range(int8, x)["zero"]
    (tensor([[250.,  -4.,   3.]]), tensor([[5.]]))
    """
    grouped = format.grouped(x)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    stored = format.stored_scales(divided(high - low, MOVED_STEPS))
    return format.shared(**stored, zero=1 - (low * inverse(stored["scale"])).round())
