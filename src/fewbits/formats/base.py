"""The format protocol: which numbers can be stored, and with which parameters.

A format knows no method, file, layer or CPU. One equation holds for all of them, with one sign:

    w ~ scale * table[code] - offset          (integers: table[code] = code)

The offset is a number of its own, not scale * zero, because K-quants keep a minimum even where the scale is 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from fewbits.errors import FormatError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, int]
Fields = dict[str, npt.NDArray[Any]]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Field -> its numpy type and shape; numpy has no bfloat16, so its bits are kept as uint16."""
"""What lies on disk for one matrix, by name: codes, scales, zero points, tables; its bytes are all that is stored."""


@dataclass(frozen=True)
class Params:
    """Named arrays, each (lines, n), the parameters of a matrix; n counts the spans or groups of a row.

    A line serves `rows[name]` rows of the matrix: 1 where nothing is said, 128 for a row of tiles, 0 for all rows.

    >>> import torch
    >>> params = Params({"scale": torch.ones(4, 2), "table": torch.ones(1, 16)}, {"table": 0})
    >>> {name: tuple(a.shape) for name, a in params.slice(1, 3).arrays.items()}
    {'scale': (2, 2), 'table': (1, 16)}
    """

    arrays: dict[str, torch.Tensor]
    rows: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name]

    def slice(self, start: int, stop: int) -> Params:
        """The parameters of rows `start` to `stop`; a slab begins where a row of tiles begins."""
        return Params({name: self._lines(name, start, stop) for name in self.arrays}, self.rows)

    def _lines(self, name: str, start: int, stop: int) -> torch.Tensor:
        each = self.rows.get(name, 1)
        if each == 0:
            return self.arrays[name]
        assert start % each == 0, f"a slab begins inside the {each} rows that share {name}"
        return self.arrays[name][start // each : -(-stop // each)]

    def to(self, device: torch.device | str) -> Params:
        """The same parameters on `device`."""
        return Params({name: array.to(device) for name, array in self.arrays.items()}, self.rows)

    @staticmethod
    def join(parts: list[Params]) -> Params:
        """Row slabs put together again, in order; what all rows share is the first one's."""
        shared = parts[0].rows
        return Params(
            {
                name: parts[0][name] if shared.get(name, 1) == 0 else torch.cat([p[name] for p in parts])
                for name in parts[0].arrays
            },
            shared,
        )

    @staticmethod
    def side_by_side(parts: list[Params]) -> Params:
        """Spans of the same rows put together again, in order; none of them share anything."""
        return Params({name: torch.cat([p[name] for p in parts], 1) for name in parts[0].arrays})


class Grid(Protocol):
    """What given columns can become once the parameters are fixed: all that an error-feedback sweep needs."""

    @property
    def vector(self) -> int:
        """Columns rounded together."""

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (rows, cols / vector) nearest to `x` (rows, cols) float32: uint8, or int32 for vectors."""

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers (rows, cols) that `codes` (rows, cols / vector) stand for."""

    def columns(self, start: int, stop: int) -> Grid:
        """What columns `start` to `stop` of these, whole vectors, can become."""


class Format(Protocol):
    """One way to store a matrix `w` (rows, cols) float32; see the concrete classes for equations and layouts.

    A format is either a `RowFormat`, a string of bytes per row, or has several fields on disk.
    """

    @property
    def name(self) -> str:
        """The registry's name, which says all parameters of the format and is also the name on disk."""

    @property
    def span(self) -> int:
        """Columns whose parameters are fitted together; 1 where there are none, 0 = all."""

    @property
    def rows(self) -> int:
        """Rows whose parameters are fitted together: 1, 128 for tiles, 0 = all."""

    @property
    def vector(self) -> int:
        """Columns rounded together."""

    @property
    def equation(self) -> str:
        """What a code means."""

    @property
    def layout(self) -> str:
        """The bytes of one span, in order, or the fields."""

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
        """Parameters that rows share, for all rows, from one pass over row slabs; None where there are none.

        The result does not depend on where slabs are cut. `like.slice(start, stop)` brings its part to `fit`.
        """

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The best parameters found for `w`; at given `codes`, by least squares.

        `importance`, broadcast to (rows, cols), weights squared errors in place of the format's own weighting. `like`
        brings what `prepare` made; without it `w` is the whole tensor.
        """

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """What to give `fit` where column c matters `importance[c]`, the mean square of what it is multiplied with.

        (rows, cols): the importance itself, or what the format's peers make of it and the size of the numbers.
        """

    def grid(self, params: Params, cols: slice | torch.Tensor) -> Grid:
        """What columns `cols`, whole vectors, can become under `params`."""

    def encode(self, w: torch.Tensor, params: Params, *, importance: torch.Tensor | None = None) -> torch.Tensor:
        """The nearest codes (rows, cols / vector).

        Where several columns are rounded together, near is meant in the weighting of `fit`, by `importance` or the
        format's own; the nearest code of a single number is the same in any.
        """

    def decode(self, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """The numbers (rows, cols) float32 that come back."""

    def fields(self, codes: torch.Tensor, params: Params) -> Fields:
        """What is stored, by name."""

    def from_fields(self, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of stored fields; raises FormatError when they do not make a matrix of `shape`."""

    def shapes(self, rows: int, cols: int) -> Shapes:
        """Field -> numpy type and shape, of a (rows, cols) matrix; raises FormatError when the width does not fit."""

    def bits(self, rows: int, cols: int) -> int:
        """Exact storage in bits, all fields included; raises FormatError when the width does not fit."""


class RowFormat(Format, Protocol):
    """A format whose matrices are one string of bytes per row, span after span, as in GGUF; its one field is `data`."""

    @property
    def span_bytes(self) -> int:
        """Stored bytes per span, parameters included."""

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """The stored bytes (rows, bytes per row)."""

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of stored bytes (rows, bytes per row)."""


@dataclass(frozen=True)
class Native:
    """How a native codec of several fields is told what a format is; `Format.native` where there is such a codec."""

    kind: str
    """What codes stand for, scales aside."""
    rows: int
    span: int
    """Rows and columns that share a scale in the codec's eyes; 0 = all."""
    scale: str
    """The type of the scales: f32, f16, bf16, e8m0, e4m3 or e4m3_divided."""
    given: str = ""
    """The field that holds what all the rest is multiplied by, or divided, where there is one."""


class Gridded(ABC):
    """What formats share that code by way of the grid."""

    @abstractmethod
    def grid(self, params: Params, cols: slice | torch.Tensor) -> Grid:
        """What columns `cols` can become under `params`."""

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """Nothing is shared between rows."""
        return None

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """The importance itself (rows, cols)."""
        return importance.expand_as(w)

    def encode(self, w: torch.Tensor, params: Params, *, importance: torch.Tensor | None = None) -> torch.Tensor:
        """The nearest codes (rows, cols), whatever the numbers weigh."""
        return self.grid(params, slice(None)).nearest(w)

    def decode(self, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """The numbers (rows, cols) float32 that come back."""
        return self.grid(params, slice(None)).value(codes)


class GridCodec(Gridded):
    """What row formats share: bytes as the one field `data`, whose size follows from the span's."""

    def fields(self: RowFormat, codes: torch.Tensor, params: Params) -> Fields:
        """The stored bytes (rows, bytes per row) as `data`."""
        return {"data": self.pack(codes, params)}

    def shapes(self: RowFormat, rows: int, cols: int) -> Shapes:
        """The bytes of the rows."""
        return {"data": ("uint8", (rows, row_bytes(self, cols)))}

    def from_fields(self: RowFormat, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes and parameters of `data`."""
        rows, cols = shape
        check_fields(self.name, fields, self.shapes(rows, cols))
        return self.unpack(fields["data"], cols)

    def bits(self: RowFormat, rows: int, cols: int) -> int:
        """Exact storage in bits."""
        return 8 * rows * spans_per_row(self.name, self.span, cols) * self.span_bytes


def spans_per_row(name: str, span: int, cols: int) -> int:
    """How many spans (0: one of all columns) a row of `cols` columns has; raises FormatError when they do not fit."""
    if span and cols % span:
        raise FormatError(
            f"{name} stores spans of {span} columns and a width of {cols} is not a multiple of that; "
            "choose a format with a smaller span"
        )
    return cols // span if span else 1


def check_fields(name: str, fields: Fields, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise FormatError unless `fields` are those of `wanted`, name to numpy type and shape."""
    if set(fields) != set(wanted):
        raise FormatError(f"{name} has the fields {', '.join(wanted)} and was given {', '.join(fields) or 'none'}")
    for key, (dtype, shape) in wanted.items():
        if fields[key].dtype != dtype or fields[key].shape != shape:
            found = f"{fields[key].dtype} {fields[key].shape}"
            raise FormatError(f"{name} wants its field {key} as {dtype} {shape} and was given {found}")


def is_row_format(format: Format) -> TypeGuard[RowFormat]:
    """Whether `format` is one string of bytes per row, as GGUF stores matrices."""
    return hasattr(format, "span_bytes")


def as_row_format(format: Format) -> RowFormat:
    """`format` itself; raises FormatError where it is not a string of bytes per row."""
    if is_row_format(format):
        return format
    raise FormatError(
        f"{format.name} has several fields on disk and cannot be stored as one string of bytes per row, as GGUF does; "
        "choose one of GGUF's formats there"
    )


def fits(format: Format, cols: int) -> bool:
    """Whether a row of `cols` columns can be stored."""
    return format.span == 0 or cols % format.span == 0


def row_bytes(format: Format, cols: int) -> int:
    """Stored bytes of one row of `cols` columns; raises FormatError for a width or a format that does not fit."""
    return as_row_format(format).bits(1, cols) // 8


def bits(format: Format, rows: int, cols: int) -> int:
    """Exact storage of a (rows, cols) matrix in bits, scales included."""
    return format.bits(rows, cols)


def bits_per_weight(format: Format) -> float:
    """Stored bits per number, scales included, of a matrix of about 4096 x 4096.

    >>> from fewbits import formats
    >>> bits_per_weight(formats.get("Q4_K"))
    4.5
    """
    cols = 4096 // format.span * format.span if format.span else 4096
    return format.bits(4096, cols) / (4096 * cols)
