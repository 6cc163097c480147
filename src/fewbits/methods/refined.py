"""GPTQ, then search from its codes: what the sweep could not know of columns to come is made up for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewbits.formats.base import Format, Params
from fewbits.methods.gptq import GPTQ
from fewbits.methods.search import refine
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Refined:
    """min tr(E H E^T) from GPTQ's codes and parameters on: no row costs more than GPTQ leaves it.

    >>> import torch
    >>> from fewbits import formats
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    >>> w = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    >>> h, q3 = x.T @ x, formats.get("int3_g32_sym")
    >>> error = lambda q: float(((w - q.dequantize()) @ h).mul(w - q.dequantize()).sum())
    >>> error(Refined().solve(w, q3, {"hessian": h})) < 0.9 * error(GPTQ().solve(w, q3, {"hessian": h}))
    True
    """

    name: str = "gptq_search"
    needs: frozenset[str] = frozenset({"hessian"})
    codec_is_enough: bool = False
    passes: int = 3
    vector_passes: int = 1
    """The same where columns are rounded several at once: proposing points of a lattice takes many times as long."""
    clips: tuple[float, ...] = (1.0,)
    """As those of search."""
    start: GPTQ = field(default_factory=lambda: GPTQ(order="spans"))

    @property
    def products(self) -> int:
        """Those of GPTQ, and of search from there."""
        return self.start.products + 2 * self.passes

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """What GPTQ shares."""
        return self.start.prepare(stats, workers, formats)

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Codes and parameters for `w` (rows, cols) float32 by stats["hessian"] (cols, cols); raises as GPTQ does."""
        swept = self.start.solve(w, format, stats, like=like)
        hessian, settled = stats["hessian"], like is not None
        passes = self.passes if format.vector == 1 else self.vector_passes
        return refine(w, swept, hessian, passes=passes, clips=self.clips, settled=settled)
