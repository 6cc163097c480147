"""GPTQ: columns are rounded one after another, and the columns to come make up for what each of them lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format, Params
from fewbits.formats.overrides import encode
from fewbits.lazy import LazyModule
from fewbits.methods.factor import Factor
from fewbits.methods.order import Factors
from fewbits.methods.sweep import Swept, sweep
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

FLOOR = 2.0**-20
"""The least that a column counts while parameters are fitted, as a part of what columns count on average."""


@dataclass(frozen=True)
class GPTQ:
    """min tr(E H E^T), E = W - Q, H = x^T x of the inputs (Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

    Where every span has parameters of its own, they are fitted when the sweep reaches it, to the weights as the columns
    before have changed them; otherwise, and in the order `activation`, once, to the weights as they are. Either fit
    weighs columns by H's diagonal. Rows that come out worse by the objective than rounded to nearest are rounded to
    nearest.

    >>> import torch
    >>> from fewbits import formats
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    >>> w = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    >>> h, q4 = x.T @ x, formats.get("Q4_0")
    >>> error = lambda q: float(((w - q.dequantize()) @ h).mul(w - q.dequantize()).sum())
    >>> error(GPTQ().solve(w, q4, {"hessian": h})) < 0.5 * error(QTensor(q4, q4.encode(w, q4.fit(w)), q4.fit(w)))
    True
    """

    name: str = "gptq"
    needs: frozenset[str] = frozenset({"hessian"})
    codec_is_enough: bool = False
    products: int = 1
    chunk: int = 256
    """Columns after which the columns beyond learn of the errors: it changes the time, not the result."""
    order: str = "storage"
    """Which columns are rounded first: as stored, those of the largest inputs (activation), or the spans of such."""

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """`stats` with the factors of stats["hessian"], which matrices with the same inputs share: stats["factor"]."""
        return {**stats, "factor": Factors(stats["hessian"], self.order, workers, formats)}

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Sweep over `w` (rows, cols) float32 by stats["hessian"] (cols, cols).

        What was out of the ordinary is remarked in the result. Raises CalibrationError where H holds no number or
        cannot be factored with any damping.
        """
        factor = (stats if "factor" in stats else self.prepare(stats))["factor"].of(format)
        importance = importance_of(stats["hessian"])
        plain = QTensor(format, *encode(format, w, importance, like))
        swept = sweep(w, plain, factor, importance, self.chunk)
        return replace(_better(w, swept, plain, factor), remarks=factor.remarks)


def importance_of(hessian: torch.Tensor) -> torch.Tensor:
    """What columns (cols,) float32 count while parameters are fitted: H's diagonal, its mean brought to 1."""
    diagonal = hessian.diagonal().double()
    mean = diagonal.mean()
    if not bool(mean > 0):
        return torch.ones_like(diagonal).float()
    return (diagonal / mean).clamp_min(FLOOR).float()


def objective(w: torch.Tensor, q: QTensor, hessian: torch.Tensor) -> torch.Tensor:
    """tr(E H E^T) row by row, (rows,) float64."""
    error = w.double() - q.dequantize().double()
    return ((error @ hessian.double()) * error).sum(1)


def _better(w: torch.Tensor, swept: Swept, plain: QTensor, factor: Factor) -> QTensor:
    """Row by row what is nearer by the objective; all rows or none where they share parameters."""
    errors, q = w - plain.dequantize(), swept.q
    if plain.format.rows != 1 or plain.params.rows:
        return q if bool(swept.objective.sum() < factor.cost(errors).sum()) else plain
    nearer = factor.dearer(errors, swept.objective)[:, None]
    arrays = {name: torch.where(nearer, array, plain.params[name]) for name, array in q.params.arrays.items()}
    return QTensor(plain.format, torch.where(nearer, q.codes, plain.codes), Params(arrays))
