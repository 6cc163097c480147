"""In which order a sweep rounds columns; storage never changes its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING

from fewbits.errors import RecipeError
from fewbits.formats.base import Format
from fewbits.lazy import LazyModule
from fewbits.methods.factor import Factor, factored
from fewbits.registry import Registry
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Order = Callable[["torch.Tensor", int, int], "torch.Tensor | None"]
"""From H's diagonal (cols,), the columns of a span (0: there are no spans) and of a vector to (cols,) int64."""


def is_refitted(format: Format) -> bool:
    """Whether every span has parameters of its own, so that they can be fitted when a sweep reaches it."""
    one, two = (format.bits(1, n * max(format.span, 1)) for n in (1, 2))
    return format.span > 1 and format.rows == 1 and two == 2 * one


def _storage(diagonal: torch.Tensor, span: int, vector: int) -> None:
    """As they are stored."""


def _activation(diagonal: torch.Tensor, span: int, vector: int) -> torch.Tensor:
    """Vectors that matter most first: what comes last finds nobody to make up for it."""
    return _columns(_descending(diagonal.reshape(-1, vector).sum(1)), vector)


def _spans(diagonal: torch.Tensor, span: int, vector: int) -> torch.Tensor:
    """Spans that matter most first, and so within each; where there are none, as `activation`.

    >>> import torch
    >>> _spans(torch.tensor([1.0, 2.0, 5.0, 4.0]), 2, 1).tolist()
    [2, 3, 1, 0]
    """
    spans = diagonal.reshape(-1, span or len(diagonal))
    inner = torch.stack([_activation(each, 0, vector) for each in spans])
    first = torch.arange(len(spans), device=diagonal.device)[:, None] * spans.shape[1]
    return (inner + first)[_descending(spans.sum(1))].flatten()


def _descending(x: torch.Tensor) -> torch.Tensor:
    return x.argsort(dim=0, descending=True, stable=True)


def _columns(units: torch.Tensor, width: int) -> torch.Tensor:
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


ORDERS: Registry[Order] = Registry("order of columns", RecipeError)
for _name, _order in (("storage", _storage), ("activation", _activation), ("spans", _spans)):
    ORDERS.add(_name, _order)


class Factors:
    """The factors of a Hessian (cols, cols), by the order of columns that a format asks for.

    Those for `formats` are made at once, by `workers`; others when they are first asked for, and threads may ask at
    once. Raises RecipeError where `order` is none that is known, and CalibrationError as `factored` does.
    """

    def __init__(
        self, hessian: torch.Tensor, order: str, workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> None:
        self._hessian, self._order = hessian, ORDERS.get(order)
        self._made: dict[tuple[int, int], Factor] = {}
        self._lock = Lock()
        for format in formats:
            self._found(format, workers)

    def of(self, format: Format) -> Factor:
        """The factor for `format`."""
        with self._lock:
            return self._found(format, None)

    def _found(self, format: Format, workers: Workers | None) -> Factor:
        key = (format.span if is_refitted(format) else 0, format.vector)
        order = self._order(self._hessian.diagonal(), *key)
        if order is None:
            key = (0, 0)
        if key not in self._made:
            self._made[key] = factored(self._hessian, order, workers)
        return self._made[key]
