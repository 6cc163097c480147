"""Native codecs over stored bytes: what a format does in torch, done by the best instruction set of this machine.

Nothing here knows a method, a file or a layer. Every function names the format by its registry name and works on numpy
views of stored bytes, so that a slab of a mapped checkpoint is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Fields
from fewbits.formats.lattices import packed_points, points
from fewbits.kernels.module import native_module

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

NUMBERS = {"F32": 4, "F16": 2, "BF16": 2}
"""Plain numbers that slabs of sources hold, with their bytes."""


@dataclass(frozen=True)
class Encoded:
    """One encoded slab: `stored` (rows, bytes per row) and, per row, sums over w: (w - stored)^2 and w^2."""

    stored: Bytes
    squared_error: Doubles
    squared: Doubles
    largest: float
    not_finite: int


@dataclass(frozen=True)
class EncodedFields:
    """One encoded slab: its fields and, per row, sums over w: (w - stored)^2 and w^2."""

    fields: Fields
    squared_error: Doubles
    squared: Doubles
    largest: float
    not_finite: int


@dataclass(frozen=True)
class Compared:
    """The verifier's reading of a slab; `worst` is the largest error within a span over the span's largest |w|."""

    squared_error: Doubles
    squared: Doubles
    worst: float


@cache
def _lattices() -> dict[str, str]:
    """Format -> the lattice whose points its codec needs."""
    needed: dict[str, str] = native_module().lattices()
    return needed


@cache
def _give_points(lattice: str) -> None:
    native_module().give_points(lattice, points(lattice))


@cache
def _give_packed_points(lattice: str) -> None:
    packed = packed_points(lattice)
    native_module().give_packed_points(lattice, packed.bits[None], np.array([packed.numbers], np.int8))


def module_with_points(lattice: str) -> ModuleType:
    """The native module, after it got the points of `lattice`."""
    _give_points(lattice)
    return native_module()


def _codecs(format_name: str) -> ModuleType:
    """The native module, after it got the points that the codec of this format needs."""
    return module_with_points(_lattices()[format_name]) if format_name in _lattices() else native_module()


def _reader(format_name: str) -> ModuleType:
    """The native module, after the verifier's reader got its own table."""
    if format_name in _lattices():
        _give_packed_points(_lattices()[format_name])
    return native_module()


def give_points(format_name: str) -> None:
    """Give the native module the table of points that the codec of this format needs, where it needs one."""
    _codecs(format_name)


def isa() -> str:
    """The instruction set in use: scalar, avx2, avx512 or neon; `FEWBITS_ISA` forces one."""
    name: str = native_module().isa()
    return name


def available() -> list[str]:
    """The instruction sets that this build and this processor both have."""
    names: list[str] = native_module().available()
    return names


@cache
def formats() -> frozenset[str]:
    """Names of the formats that have a native codec."""
    return frozenset(native_module().formats())


@cache
def weighted_formats() -> frozenset[str]:
    """Names of the formats whose native codec weighs errors by importance."""
    return frozenset(name for name, weighted in native_module().formats().items() if weighted)


def encode_rows(
    format_name: str,
    source: Bytes,
    numbers: str,
    row_bytes: int,
    *,
    importance: Floats | None = None,
    isa: str = "",
) -> Encoded:
    """Fit, choose and pack codes for `source`, (rows, bytes of `numbers`), into (rows, row_bytes).

    `importance` (cols,) is the mean square of what each column is multiplied with; formats that search weigh errors
    by it, the others look away. The same numbers give the same bytes on every instruction set and in every slab.
    Raises ValueError when a width does not fit the format.
    """
    rows = len(source)
    stored = np.empty((rows, row_bytes), np.uint8)
    squared_error, squared = np.empty(rows), np.empty(rows)
    source = np.ascontiguousarray(source)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    largest, not_finite = _codecs(format_name).encode(
        format_name, source, numbers, stored, squared_error, squared, importance, isa
    )
    return Encoded(stored, squared_error, squared, largest, not_finite)


def decode_rows(format_name: str, stored: Bytes, cols: int, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored bytes (rows, bytes per row), written `into` an array or a new one."""
    w = np.empty((len(stored), cols), np.float32) if into is None else into
    _codecs(format_name).decode(format_name, np.ascontiguousarray(stored), w, isa)
    return w


def extent(source: Bytes, numbers: str, *, isa: str = "") -> tuple[float, int]:
    """The largest magnitude in `source`, (rows, bytes of `numbers`), and its count of NaN and infinite numbers."""
    largest, not_finite = native_module().extent(np.ascontiguousarray(source), numbers, isa)
    return largest, not_finite


def deviation(source: Bytes, numbers: str, back: Floats) -> tuple[Doubles, Doubles]:
    """Per row of `source`, (rows, bytes of `numbers`): the sums of (w - back)^2 and of w^2, to the last bit as encoding
    measures them; `back` is (rows, cols).
    """
    squared_error, squared = np.empty(len(source)), np.empty(len(source))
    native_module().deviation(np.ascontiguousarray(source), numbers, np.ascontiguousarray(back), squared_error, squared)
    return squared_error, squared


def compare_rows(format_name: str, stored: Bytes, source: Bytes, numbers: str, floor: float = 0.0) -> Compared:
    """Decode `stored` with the verifier's own reader and compare it with `source`; both (rows, bytes per row).

    Errors of up to `floor` do not count towards `worst`: 16-bit scales cannot tell smaller numbers apart.
    """
    rows = len(source)
    squared_error, squared, worst = np.empty(rows), np.empty(rows), np.empty(rows)
    stored, source = np.ascontiguousarray(stored), np.ascontiguousarray(source)
    _reader(format_name).compare(format_name, stored, source, numbers, squared_error, squared, worst, floor)
    return Compared(squared_error, squared, float(worst.max(initial=0.0)))
