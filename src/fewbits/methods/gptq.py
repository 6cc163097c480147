"""GPTQ: columns are rounded one after another, and the columns to come make up for what each of them lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.errors import CalibrationError
from fewbits.formats.base import Format, Params
from fewbits.lazy import LazyModule
from fewbits.methods.nearest import Nearest
from fewbits.qtensor import QTensor

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

DAMPING = (0.01, 0.1, 1.0, 10.0)
"""Shares of the mean of H's diagonal that are added to it, tried one after another until it can be inverted."""

FLOOR = 2.0**-20
"""The least that a column counts while parameters are fitted, as a part of what columns count on average."""


@dataclass(frozen=True)
class GPTQ:
    """min tr(E H E^T), E = W - Q, H = x^T x of the inputs (Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

    Where every span has parameters of its own, they are fitted when the sweep reaches it, to the weights as the columns
    before have changed them; otherwise once, to the weights as they are. Either fit weighs columns by H's diagonal.
    Storage order is the order of the sweep. Rows that come out worse by the objective than rounded to nearest are
    rounded to nearest.

    >>> import torch
    >>> from fewbits import formats
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    >>> w = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    >>> h, q4 = x.T @ x, formats.get("Q4_0")
    >>> error = lambda q: float(((w - q.dequantize()) @ h).mul(w - q.dequantize()).sum())
    >>> error(GPTQ().solve(w, q4, {"hessian": h})) < 0.5 * error(Nearest().solve(w, q4, {}))
    True
    """

    name: str = "gptq"
    needs: frozenset[str] = frozenset({"hessian"})
    codec_is_enough: bool = False
    chunk: int = 128
    """Columns after which the columns beyond learn of the errors: it changes the time, not the result."""

    def prepare(self, stats: Mapping[str, Any]) -> Mapping[str, Any]:
        """The factor of stats["hessian"], as stats["factor"]."""
        return {**stats, "factor": inverse_factor(stats["hessian"].double())}

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Sweep over `w` (rows, cols) float32 by stats["hessian"] (cols, cols).

        Raises CalibrationError where H holds no number or cannot be inverted with any damping.
        """
        hessian = stats["hessian"].double()
        importance = _importance(hessian)
        plain = Nearest().solve(w, format, {"importance": importance}, like=like)
        factor = stats["factor"] if "factor" in stats else inverse_factor(hessian)
        swept = self._sweep(w, plain, factor, importance)
        return _better(w, hessian, swept, plain)

    def _sweep(self, w: torch.Tensor, plain: QTensor, upper: torch.Tensor, importance: torch.Tensor) -> QTensor:
        """Codes and parameters, chunk by chunk; `plain` brings the parameters where spans share some."""
        format, rest, spans = plain.format, w.double(), _Spans(plain, importance)
        width = _chunk(format, self.chunk)
        codes = []
        for start in range(0, w.shape[1], width):
            stop = min(start + width, w.shape[1])
            errors = torch.zeros_like(rest[:, start:stop])
            for at in range(start, stop, format.vector):
                end = at + format.vector
                code, stored = spans.round(rest, at, end)
                codes.append(code)
                error = _spread(rest[:, at:end] - stored, upper[at:end, at:end])
                rest[:, end:stop] -= error @ upper[at:end, end:stop]
                errors[:, at - start : end - start] = error
            rest[:, stop:] -= errors @ upper[start:stop, stop:]
        return QTensor(format, torch.cat(codes, 1), spans.params())


class _Spans:
    """The grids that columns are rounded to, span after span."""

    def __init__(self, plain: QTensor, importance: torch.Tensor) -> None:
        self._format = plain.format
        self._importance = importance
        self._params = plain.params
        self._alone = plain.format.span > 1 and not plain.params.rows and _are_apart(plain.format)
        self._found: list[Params] = []

    def round(self, rest: torch.Tensor, at: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of columns `at` to `end` of `rest` (rows, cols) float64, and the numbers that come back."""
        span = self._format.span
        if self._alone and at % span == 0:
            x = rest[:, at : at + span].float()
            weights = self._format.weights(x, self._importance[at : at + span])
            self._found.append(self._format.fit(x, importance=weights))
        first = at // span * span if self._alone else 0
        grid = self._format.grid(self._found[-1] if self._alone else self._params, slice(at - first, end - first))
        codes = grid.nearest(rest[:, at:end].float().contiguous())
        return codes, grid.value(codes).double()

    def params(self) -> Params:
        """The parameters of all columns."""
        return Params.side_by_side(self._found) if self._alone else self._params


def _are_apart(format: Format) -> bool:
    """Whether two spans store twice what one stores, so that no parameter belongs to both."""
    one, two = (format.bits(1, n * format.span) for n in (1, 2))
    return two == 2 * one


def _chunk(format: Format, wanted: int) -> int:
    """Columns of a chunk: whole spans, or where a span is longer than `wanted`, an even part of it in whole vectors."""
    span = format.span if format.span > 1 else format.vector
    if span <= wanted:
        return wanted // span * span
    return max(n for n in range(format.vector, wanted + 1, format.vector) if span % n == 0)


def _spread(error: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """What errors (rows, vector) mean for the columns to come: error * factor^-1, `factor` being upper triangular."""
    if len(factor) == 1:
        return error / factor
    spread: torch.Tensor = torch.linalg.solve_triangular(factor, error, upper=True, left=False)
    return spread


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """U (cols, cols) float64, upper triangular, with U^T U = (H + damping)^-1.

    Columns that no input ever reached count as if they were reached alone. Raises CalibrationError where no damping
    helps.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise CalibrationError(
            "the inputs of this matrix hold NaN or infinite numbers; the model or its text is damaged."
        )
    diagonal = hessian.diagonal()
    mean = diagonal.mean()
    dead = torch.where(diagonal > 0, torch.zeros_like(diagonal), torch.where(mean > 0, mean, torch.ones_like(mean)))
    for share in DAMPING:
        damped = hessian + torch.diag(dead + share * mean)
        lower, fails = torch.linalg.cholesky_ex(damped)
        upper: torch.Tensor
        if int(fails) == 0:
            upper, fails = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if int(fails) == 0:
            return upper
    raise CalibrationError("the inputs of this matrix are too much alike to tell its columns apart; give more text.")


def _importance(hessian: torch.Tensor) -> torch.Tensor:
    """What columns (cols,) float32 count while parameters are fitted: H's diagonal, its mean brought to 1."""
    diagonal = hessian.diagonal()
    mean = diagonal.mean()
    if not bool(mean > 0):
        return torch.ones_like(diagonal).float()
    return (diagonal / mean).clamp_min(FLOOR).float()


def objective(w: torch.Tensor, q: QTensor, hessian: torch.Tensor) -> torch.Tensor:
    """tr(E H E^T) row by row, (rows,) float64."""
    error = w.double() - q.dequantize().double()
    return ((error @ hessian.double()) * error).sum(1)


def _better(w: torch.Tensor, hessian: torch.Tensor, swept: QTensor, plain: QTensor) -> QTensor:
    """Row by row what is nearer by the objective; all rows or none where they share parameters."""
    nearer = objective(w, swept, hessian) < objective(w, plain, hessian)
    if plain.format.rows != 1 or plain.params.rows:
        total = objective(w, swept, hessian).sum() < objective(w, plain, hessian).sum()
        return swept if bool(total) else plain
    arrays = {
        name: torch.where(nearer[:, None], array, plain.params[name]) for name, array in swept.params.arrays.items()
    }
    return QTensor(plain.format, torch.where(nearer[:, None], swept.codes, plain.codes), Params(arrays))
