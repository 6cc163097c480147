"""Native codecs beside the formats: whoever fits and encodes through here gets them on a CPU, without knowing of any.

Formats stand below the kernels, so the module is named here and not imported; it is loaded when a tensor on a CPU is
first fitted. What comes back is the same to the last bit, with and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from fewbits.formats.base import Format, Grid, Params
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Feedback:
    """The part of an error-feedback sweep that goes vector by vector, on some rows and columns of a matrix.

    Column k is rounded to what a grid allows nearest to t = target[:, k] + errors[:, :k] @ upper[:k, k]. `errors` and
    `target` are filled in: w[:, k] - what it became, and t - what it became. `w` is float32, the rest float64, but for
    `weight` (cols,) float32: where columns are rounded together, what their squared errors weigh. There `upper` feeds
    nothing back inside of a vector.
    """

    w: torch.Tensor
    target: torch.Tensor
    upper: torch.Tensor
    errors: torch.Tensor
    weight: torch.Tensor


class Overrides(Protocol):
    """What native codecs offer; each returns None where there is no codec."""

    def fit(self, format: Format, w: torch.Tensor, importance: torch.Tensor) -> Params | None:
        """Parameters for `w` (rows, cols), errors weighed by `importance` (cols,)."""

    def encode(
        self, format: Format, w: torch.Tensor, importance: torch.Tensor, like: Params | None
    ) -> tuple[torch.Tensor, Params] | None:
        """Codes and parameters for `w`; `like` brings what rows share."""

    def round_columns(self, grid: Grid, feedback: Feedback) -> torch.Tensor | None:
        """The codes (rows, cols / vector) of a sweep over `grid`; fills in errors and targets."""

    def add_product(self, sums: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, minus: bool) -> None:
        """Add `left` @ `right` to `sums`, or take it away."""


_CPU = cast(Overrides, LazyModule("fewbits.kernels.overrides"))


def fit(format: Format, w: torch.Tensor, importance: torch.Tensor) -> Params:
    """The format's best parameters for `w` (rows, cols) float32, errors weighed by `importance` (cols,)."""
    found = _CPU.fit(format, w, importance) if w.device.type == "cpu" else None
    return found or format.fit(w, importance=format.weights(w, importance))


def encode(
    format: Format, w: torch.Tensor, importance: torch.Tensor, like: Params | None = None
) -> tuple[torch.Tensor, Params]:
    """The same with the nearest codes; `like` brings what rows share."""
    found = _CPU.encode(format, w, importance, like) if w.device.type == "cpu" else None
    if found:
        return found
    weights = format.weights(w, importance)
    params = format.fit(w, importance=weights, like=like)
    return format.encode(w, params, importance=weights), params


def round_columns(grid: Grid, feedback: Feedback) -> torch.Tensor | None:
    """The codes of a sweep over `grid`; None, and nothing filled in, where no native kernel sweeps over it."""
    return _CPU.round_columns(grid, feedback) if feedback.w.device.type == "cpu" else None


def add_product(sums: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, minus: bool = False) -> torch.Tensor:
    """`sums` (rows, cols) with `left` (rows, terms) @ `right` (terms, cols) added to it in its place, or taken away.

    All in float64; `right` may be float32. On a CPU no row depends on how many there are, nor any column.
    """
    if sums.device.type != "cpu":
        return sums.addmm_(left, right.double(), alpha=-1 if minus else 1)
    _CPU.add_product(sums, left, right, minus=minus)
    return sums
