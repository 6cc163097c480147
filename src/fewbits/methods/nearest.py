"""Round to nearest: the format's best parameters for the weights alone, then the nearest codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format, Params
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Nearest:
    """min over parameters, then over codes, of the weighted squared error of each weight on its own.

    >>> import torch
    >>> from fewbits import formats
    >>> q = Nearest().solve(torch.tensor([[0.5] * 16 + [-1.0] * 16]), formats.get("Q8_0"), {})
    >>> q.dequantize()[0, [0, 31]]
    tensor([ 0.5039, -0.9999])
    """

    name: str = "nearest"
    needs: frozenset[str] = frozenset()
    codec_is_enough: bool = True
    products: int = 0

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """Nothing is shared."""
        return stats

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Fit, then encode `w` (rows, cols) float32; errors are weighed by stats["importance"] (cols,) where given."""
        importance = stats.get("importance")
        weights = None if importance is None else format.weights(w, importance)
        params = format.fit(w, importance=weights, like=like)
        return QTensor(format, format.encode(w, params, importance=weights), params)
