"""The format protocol: which numbers can be stored, and with which parameters.

A format knows no method, file, layer or CPU. One equation holds for all of them, with one sign:

    w ~ scale * table[code] - offset          (integers: table[code] = code)

The offset is a number of its own, not scale * zero, because K-quants keep a minimum even where the scale is 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Params:
    """Named arrays, each (rows, n): the parameters of `rows` rows; n counts the spans or groups of a row."""

    arrays: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name]

    def slice(self, start: int, stop: int) -> Params:
        """The parameters of rows `start` to `stop`."""
        return Params({name: a[start:stop] for name, a in self.arrays.items()})

    @staticmethod
    def join(parts: list[Params]) -> Params:
        """Row slabs put together again, in order."""
        import torch

        return Params({name: torch.cat([p[name] for p in parts]) for name in parts[0].arrays})


class Grid(Protocol):
    """What given columns can become once the parameters are fixed: all that an error-feedback sweep needs."""

    vector: int

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8 nearest to `x` (rows, cols) float32."""

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers (rows, cols) that `codes` stand for."""


class Format(Protocol):
    """One way to store a matrix `w` (rows, cols) float32; see the concrete classes for equations and layouts."""

    name: str
    span: int
    """Columns whose parameters are fitted together; 1 where there are none, 0 = all."""
    rows: int
    """Rows that share parameters: 1, 0 = all."""
    vector: int
    """Columns rounded together."""
    equation: str
    layout: str
    source: str
    span_bytes: int
    """Stored bytes per span, parameters included."""
    error_bound: float
    """Largest |w - decode(encode(w))| within a span, as a share of the largest |w| in that span."""

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """Parameters of the whole tensor, from one pass over its row slabs; None where there are none."""

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The best parameters found for `w`; at given `codes`, by weighted least squares."""

    def grid(self, params: Params, cols: slice | torch.Tensor) -> Grid:
        """What columns `cols` can become under `params`."""

    def encode(self, w: torch.Tensor, params: Params) -> torch.Tensor:
        """The nearest codes (rows, cols) uint8."""

    def decode(self, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """The numbers (rows, cols) float32 that come back."""

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """The stored bytes (rows, bytes per row)."""

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of stored bytes (rows, bytes per row)."""

    def bits(self, rows: int, cols: int) -> int:
        """Exact storage of a (rows, cols) matrix in bits, scales included."""

    def to_json(self) -> dict[str, Any]:
        """The format as data; `formats.from_json` brings it back."""
