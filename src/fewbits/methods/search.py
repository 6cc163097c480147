"""Search: clips, scales and codes that make the error of outputs small, by trying and keeping what costs less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewbits.errors import CalibrationError
from fewbits.formats.base import Format, Params
from fewbits.formats.overrides import add_product, encode
from fewbits.lazy import LazyModule
from fewbits.methods.descent import Part, descend
from fewbits.methods.gptq import importance_of
from fewbits.methods.parts import better_of, joined, part_of, parts_of, same_shared
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class Search:
    """min tr(E H E^T), E = W - Q, H = x^T x of the inputs, over parameters and codes in turns, from nearest.

    Per span: what the errors of all other columns ask of it is known, so parameters are fitted to that target, and to
    the target clipped, and at the codes; codes go through coordinate descent under each; the cheapest stays. Where rows
    or spans share parameters, all of these are tried for the whole matrix.

    >>> import torch
    >>> from fewbits import formats
    >>> from fewbits.methods.nearest import Nearest
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    >>> w = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    >>> h, q4 = x.T @ x, formats.get("Q4_0")
    >>> error = lambda q: float(((w - q.dequantize()) @ h).mul(w - q.dequantize()).sum())
    >>> error(Search().solve(w, q4, {"hessian": h})) < 0.5 * error(Nearest().solve(w, q4, {}))
    True
    """

    name: str = "search"
    needs: frozenset[str] = frozenset({"hessian"})
    codec_is_enough: bool = False
    passes: int = 3
    clips: tuple[float, ...] = (1.0, 0.85)
    """Parts of a span's largest magnitude at which its target is cut off before parameters are fitted to it."""

    @property
    def products(self) -> int:
        """Products with the Hessian, and as much again for fits and codes, each time."""
        return 2 * self.passes

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """Nothing is shared."""
        return stats

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Codes and parameters for `w` (rows, cols) float32 by stats["hessian"] (cols, cols).

        Raises CalibrationError where H holds numbers that are none.
        """
        hessian = stats["hessian"]
        plain = QTensor(format, *encode(format, w, importance_of(hessian), like))
        return refine(w, plain, hessian, passes=self.passes, clips=self.clips, settled=like is not None)


def refine(
    w: torch.Tensor,
    q: QTensor,
    hessian: torch.Tensor,
    *,
    passes: int = 3,
    clips: tuple[float, ...] = (),
    settled: bool = True,
) -> QTensor:
    """`q` after `passes` rounds of search from there, by `hessian` (cols, cols): no row of it costs more than before.

    Another method's result can be the start. In the first round, parameters are also fitted anew, to the target cut
    off at each of `clips`. Unless `settled` is False, what all rows share stays. Raises CalibrationError where the
    Hessian holds numbers that are none.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise CalibrationError(
            "the inputs of this matrix hold NaN or infinite numbers; the model or its text is damaged."
        )
    wide, count = w.double(), parts_of(q)
    parts = [part_of(q, place) for place in range(count)]
    width = q.shape[1] // count
    error = wide - q.dequantize().double()
    for turn in range(passes):
        for place in range(count):
            cols = slice(place * width, (place + 1) * width)
            own = hessian[cols, cols].double()  # never all of it: it is the largest thing in memory
            others = add_product(-(error[:, cols] @ own), error, hessian[:, cols])
            part = Part(wide[:, cols], own, others)
            parts[place] = _best(part, parts[place], clips if turn == 0 else (), settled)
            error[:, cols] = part.w - parts[place].dequantize().double()
    return replace(joined(parts), remarks=q.remarks)


def _best(part: Part, q: QTensor, clips: tuple[float, ...], settled: bool) -> QTensor:
    """`q`, or of the candidates from there what costs less, row by row."""
    found, other = _descended(part, q)
    best, cost = better_of(q, found, part.cost(q.dequantize().double()), other)
    for candidate in _candidates(part, best, clips):
        if same_shared(q, candidate) or not (settled or q.format.span > 1):
            found, other = _descended(part, candidate)
            best, cost = better_of(best, found, cost, other)
    return best


def _descended(part: Part, q: QTensor) -> tuple[QTensor, torch.Tensor]:
    """`q` after one pass over its codes, and what it costs, (rows, 1)."""
    codes = descend(part, q.format.grid(q.params, slice(None)), q.codes)
    found = QTensor(q.format, codes, q.params)
    return found, part.cost(found.dequantize().double())


def _candidates(part: Part, q: QTensor, clips: tuple[float, ...]) -> Iterator[QTensor]:
    """Other parameters, each with codes to start from: fitted anew to clipped targets, then at the codes of `q`."""
    target = part.target().float()
    weights, like = importance_of(part.hessian), q.params if q.params.rows else None
    for clip in clips:
        limit = clip * target.abs().amax(1, keepdim=True)
        yield QTensor(q.format, *encode(q.format, target.clamp(-limit, limit), weights, like))
    params = q.format.fit(target, importance=weights.expand_as(target), codes=q.codes, like=like)
    yield QTensor(q.format, q.codes, params)
