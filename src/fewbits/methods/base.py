"""The method protocol: given a matrix and a format, which codes. A method knows no particular format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fewbits.formats.base import Format, Params
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch


class Method(Protocol):
    """One way to choose codes."""

    @property
    def name(self) -> str:
        """The registry's name."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the statistics that `solve` reads; empty when no calibration data are wanted."""

    @property
    def codec_is_enough(self) -> bool:
        """Whether `solve` is just the format's own fit and encode, which a native codec does in one pass."""

    @property
    def products(self) -> int:
        """How often `solve` multiplies a matrix with its Hessian, or as much work: what previews count."""

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        """`stats` with what all matrices of one input share, computed once, by `workers` where there are any.

        `formats` are those that will be asked for, as far as they are known.
        """

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        """Codes and parameters for `w` (rows, cols) float32; rows do not influence each other.

        Where rows of a tensor share parameters, `like` brings what `format.prepare` made for these rows.
        """
