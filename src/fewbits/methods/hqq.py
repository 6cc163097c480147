"""HQQ: parameters that make many errors small and let a few be large, without any data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format, Params
from fewbits.formats.exact import lane_sum
from fewbits.lazy import LazyModule
from fewbits.methods.parts import better_of, parts_of, rounded
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


STRETCHES = (0.93, 0.97, 0.99, 1.01, 1.03, 1.08)
"""Parts of the weights' size that parameters are fitted to."""

SQUARES = 1.1
"""How many times the squared error of nearest a span may have: without a limit, whole tails of weights are given up."""


@dataclass(frozen=True)
class HQQ:
    """min sum |W - Q|^(1/2) over parameters, codes being the nearest (Badri and Shaji 2023).

    Three ways, one after another; what any of them finds serves a span where it costs less, and not much more in
    squares. Parameters are fitted to slightly smaller and larger weights than there are. Then half-quadratic rounds:
    the few large errors are taken out of the weights by shrinking (equations 2 and 3 there), and parameters fitted to
    the rest at the codes; where a format has offsets they move, and else the scales. Then parameters are fitted anew, a
    weight counting |error|^(-3/2). Where a format has no parameters, or powers of two alone, there may be nothing to
    choose: the result is that of nearest.

    >>> import torch
    >>> from fewbits import formats
    >>> w = torch.randn(4, 64, generator=torch.Generator().manual_seed(2)) ** 3
    >>> q4 = formats.get("uint4_g64_asym_f16")
    >>> error = lambda q: float((w - q.dequantize()).abs().sqrt().sum())
    >>> error(HQQ().solve(w, q4, {})) < 0.99 * error(rounded(w, q4))
    True
    """

    name: str = "hqq"
    needs: frozenset[str] = frozenset()
    codec_is_enough: bool = False
    products: int = 0
    rounds: int = 12
    strength: float = 1.0
    """How much of an error of ordinary size is shrunk away in the first round, and less in every further one."""
    growth: float = 1.2
    """By what shrinking is divided from round to round."""

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """Nothing is shared."""
        return stats

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Codes and parameters for `w` (rows, cols) float32; no statistic is read."""
        best = rounded(w, format, like=like)
        if not best.params.arrays:
            return best
        like = best.params if best.params.rows and (like is not None or format.span != 0) else None
        cost, limit = sparse_cost(w, best), SQUARES * _squares(w, best)
        for way in (self._stretched, self._shrunk, self._reweighed):
            for found in way(w, best, like):
                costs = sparse_cost(w, found)
                costs = torch.where(_squares(w, found) <= limit, costs, torch.full_like(costs, torch.inf))
                best, cost = better_of(best, found, cost, costs)
        return best

    def _shrunk(self, w: torch.Tensor, q: QTensor, like: Params | None) -> Iterator[QTensor]:
        """Parameters at the codes, for weights without their large errors, and the codes anew, round by round."""
        strength = self.strength
        for _ in range(self.rounds):
            error = w - q.dequantize()
            params = q.format.fit(w - _shrunk(error, _spread(error, q), strength), codes=q.codes, like=like)
            q = QTensor(q.format, q.format.encode(w, params), params)
            strength /= self.growth
            yield q

    def _reweighed(self, w: torch.Tensor, q: QTensor, like: Params | None) -> Iterator[QTensor]:
        """Parameters anew, weighed by |error|^(-3/2) of those before."""
        for _ in range(self.rounds // 3):
            error = w - q.dequantize()
            size = _ratio(error.abs(), _spread(error, q)).clamp(min=0.05, max=20.0)
            weights = torch.ones_like(size) / (size * size.sqrt())
            q = rounded(w, q.format, importance=weights, like=like)
            yield q

    def _stretched(self, w: torch.Tensor, q: QTensor, like: Params | None) -> Iterator[QTensor]:
        """Parameters fitted to weights a little larger or smaller than they are."""
        for factor in STRETCHES:
            params = q.format.fit(w * factor, like=like)
            yield QTensor(q.format, q.format.encode(w, params), params)


def sparse_cost(w: torch.Tensor, q: QTensor) -> torch.Tensor:
    """Sum of |w - stored|^(1/2) per row and part, (rows, parts) float64: what HQQ makes small."""
    root = (w.double() - q.dequantize().double()).abs().sqrt()
    return lane_sum(root.reshape(len(w), parts_of(q), -1))


def _squares(w: torch.Tensor, q: QTensor) -> torch.Tensor:
    """The squared error per row and part, (rows, parts) float64."""
    error = w.double() - q.dequantize().double()
    return lane_sum((error * error).reshape(len(w), parts_of(q), -1))


def _spread(error: torch.Tensor, q: QTensor) -> torch.Tensor:
    """(rows, cols): the mean magnitude of the errors of the part that a column belongs to."""
    parts = error.abs().reshape(len(error), parts_of(q), -1)
    mean = lane_sum(parts) / torch.full_like(parts[..., 0], parts.shape[-1])
    return mean[..., None].expand_as(parts).reshape(error.shape)


def _ratio(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return torch.where(by > 0, x / torch.where(by > 0, by, torch.ones_like(by)), torch.zeros_like(x))


def _shrunk(error: torch.Tensor, spread: torch.Tensor, strength: float) -> torch.Tensor:
    """sign(e) max(|e| - strength |e|^(-1/2), 0), in units of the spread: what is large of errors."""
    size = _ratio(error.abs(), spread)
    left = size - strength / size.clamp(min=1e-3).sqrt()
    return torch.sign(error) * left.clamp(min=0.0) * spread
