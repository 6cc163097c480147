"""The format protocol: which numbers can be stored, and with which parameters.

A format knows no method, file, layer or CPU. One equation holds for all of them, with one sign:

    w ~ scale * table[code] - offset          (integers: table[code] = code)

The offset is a number of its own, not scale * zero, because K-quants keep a minimum even where the scale is 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fewbits.errors import FormatError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


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
        return Params({name: torch.cat([p[name] for p in parts]) for name in parts[0].arrays})


class Grid(Protocol):
    """What given columns can become once the parameters are fixed: all that an error-feedback sweep needs."""

    @property
    def vector(self) -> int:
        """Columns rounded together."""

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols) uint8 nearest to `x` (rows, cols) float32."""

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers (rows, cols) that `codes` stand for."""


class Format(Protocol):
    """One way to store a matrix `w` (rows, cols) float32; see the concrete classes for equations and layouts."""

    @property
    def name(self) -> str:
        """The registry's name, which is also the name on disk."""

    @property
    def span(self) -> int:
        """Columns whose parameters are fitted together; 1 where there are none, 0 = all."""

    @property
    def span_bytes(self) -> int:
        """Stored bytes per span, parameters included."""

    @property
    def rows(self) -> int:
        """Rows that share parameters: 1, 0 = all."""

    @property
    def vector(self) -> int:
        """Columns rounded together."""

    @property
    def equation(self) -> str:
        """What a code means."""

    @property
    def layout(self) -> str:
        """The bytes of one span, in order."""

    @property
    def source(self) -> str:
        """Where the format is defined."""

    @property
    def largest(self) -> float:
        """The largest magnitude that comes back within the error bound."""

    @property
    def error_bound(self) -> float:
        """Largest |w - stored| within a span over the span's largest |w|, beyond `error_floor`."""

    @property
    def error_floor(self) -> float:
        """Absolute error that the resolution of 16-bit scales allows, however small the numbers are."""

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
        """The best parameters found for `w`; at given `codes`, by least squares.

        `importance`, broadcast to (rows, cols), weights squared errors in place of the format's own weighting.
        """

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """What to give `fit` where column c matters `importance[c]`, the mean square of what it is multiplied with.

        (rows, cols): the importance itself, or what the format's peers make of it and the size of the numbers.
        """

    def grid(self, params: Params, cols: slice | torch.Tensor) -> Grid:
        """What columns `cols` can become under `params`."""

    def encode(self, w: torch.Tensor, params: Params) -> torch.Tensor:
        """The nearest codes (rows, cols)."""

    def decode(self, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """The numbers (rows, cols) float32 that come back."""

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """The stored bytes (rows, bytes per row)."""

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of stored bytes (rows, bytes per row)."""


class GridCodec(ABC):
    """What formats share whose rows are fitted alone: coding by way of the grid, nothing common to the tensor."""

    @abstractmethod
    def grid(self, params: Params, cols: slice | torch.Tensor) -> Grid:
        """What columns `cols` can become under `params`."""

    def prepare(self, slabs: Iterable[torch.Tensor]) -> None:  # noqa: B027  (nothing to do is an answer here)
        """Nothing is shared between rows."""

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """The importance itself (rows, cols)."""
        return importance.expand_as(w)

    def encode(self, w: torch.Tensor, params: Params) -> torch.Tensor:
        """The nearest codes (rows, cols)."""
        return self.grid(params, slice(None)).nearest(w)

    def decode(self, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """The numbers (rows, cols) float32 that come back."""
        return self.grid(params, slice(None)).value(codes)


def row_bytes(format: Format, cols: int) -> int:
    """Stored bytes of one row of `cols` columns; raises FormatError when the span does not divide the width."""
    if cols % format.span:
        raise FormatError(
            f"{format.name} stores spans of {format.span} columns and a width of {cols} is not a multiple of that; "
            "choose a format with a smaller span"
        )
    return cols // format.span * format.span_bytes


def bits(format: Format, rows: int, cols: int) -> int:
    """Exact storage of a (rows, cols) matrix in bits, scales included."""
    return 8 * rows * row_bytes(format, cols)


def bits_per_weight(format: Format) -> float:
    """Stored bits per number, scales included."""
    return 8 * format.span_bytes / format.span
