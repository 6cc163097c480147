"""Native codecs of integers and tables under one scale per group, for any member of their families.

Scales are found natively and stored as the format stores them (as numbers of 32 or 16 bits, or quantized); then codes
are chosen under what is stored. Scales are few; that step in between is the format's own code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import KernelError
from fewbits.formats import doubled
from fewbits.formats.base import Fields, Format, Params, Shape, check_fields, spans_per_row
from fewbits.formats.coding import STEPS, Coding
from fewbits.formats.fields import packed_bytes
from fewbits.formats.scaled import Scaled
from fewbits.kernels import NUMBERS, Bytes, EncodedFields, Floats, decode_rows, extent
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

_NO_NUMBERS, _NO_ZEROS = np.empty(0, np.float32), np.empty((0, 0), np.uint8)


def has_codec(format: Format) -> bool:
    """Whether a native kernel codes `format`."""
    return isinstance(format, Scaled) and format.coding is not None


def encode_fields(
    format: Format,
    source: Bytes,
    numbers: str,
    *,
    like: Params | None = None,
    importance: Floats | None = None,
    isa: str = "",
) -> EncodedFields:
    """Fit, choose and pack codes for `source`, (rows, bytes of `numbers`).

    `like` brings what `Format.prepare` made; without it the slab is the whole tensor. `importance` (cols,) weighs
    squared errors. The same numbers give the same fields on every instruction set and in every slab.
    """
    scaled, coding = _required(format)
    rows, cols = len(source), source.shape[1] // NUMBERS[numbers]
    source, count = np.ascontiguousarray(source), spans_per_row(scaled.name, coding.group, cols)
    if like is None and (scaled.scope.rows == 0 or _learned(coding)):
        like = scaled.prepare([torch.from_numpy(decode_rows(numbers, source, cols))])
    groups = _groups(coding, cols, _table(scaled, coding, like))
    if scaled.scope.rows == 0:
        assert like is not None, "a scale of the whole tensor is made by prepare"
        params, seen = like, extent(source, numbers, isa=isa)
    else:
        found, seen = _fitted(groups, (rows, count), source, numbers, importance, isa)
        params = _stored(scaled, coding, found, like)
    scales, zeros = _per_row(scaled, coding, params, (rows, count))
    codes = np.empty(scaled.shapes(rows, cols)["codes"][1], np.uint8)
    squared_error, squared = np.empty(rows), np.empty(rows)
    native_module().encode_groups(groups, source, numbers, scales, zeros, codes, squared_error, squared, isa)
    fields = {"codes": codes, **scaled.parameter_fields(params)}
    return EncodedFields(fields, squared_error, squared, *seen)


def fit(format: Format, source: Bytes, importance: Floats) -> Params:
    """The parameters alone, of rows of F32 that share none with others; `importance` (cols,) weighs squared errors."""
    scaled, coding = _required(format)
    rows, cols = len(source), source.shape[1] // NUMBERS["F32"]
    count = spans_per_row(scaled.name, coding.group, cols)
    groups = _groups(coding, cols, _table(scaled, coding, None))
    found, _ = _fitted(groups, (rows, count), source, "F32", importance, "")
    return _stored(scaled, coding, found, None)


def _stored(format: Scaled, coding: Coding, found: dict[str, torch.Tensor], like: Params | None) -> Params:
    more = {"zero": found["zero"]} if coding.steps == "zero" else {}
    if _learned(coding):
        assert like is not None, "a table is learned by prepare"
        more["table"] = like["table"]
    return format.shared(**format.stored_scales(found["step"], like), **more)


def decode_fields(format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored fields, written `into` an array or a new one."""
    check_fields(format.name, fields, format.shapes(*shape))
    w = np.empty(shape, np.float32) if into is None else into
    native_module().decode_groups(native_coding(format, fields, shape[1]), *as_stored(format, fields), w, isa)
    return w


def native_coding(format: Format, fields: Fields, cols: int) -> Any:
    """The coding of rows of `cols` columns as the native module takes it."""
    coding = coding_of(format)
    return _groups(coding, cols, tuple(fields["table"].tolist()) if _learned(coding) else coding.table)


def as_stored(format: Format, fields: Fields) -> tuple[Bytes, tuple[Any, ...], Bytes]:
    """Codes, scales and zero points as they lie in checked fields; raises FormatError where codes mean nothing."""
    scaled, _ = _required(format)
    scaled.check_codes(fields["codes"])
    zeros = np.ascontiguousarray(fields.get("zero", _NO_ZEROS))
    return np.ascontiguousarray(fields["codes"]), _scales(scaled, fields), zeros


def _scales(format: Scaled, fields: Fields) -> tuple[Bytes, str, Floats, Floats, float]:
    """Scales as they lie on disk, their type, and what quantized ones are made of."""
    stored = np.ascontiguousarray(fields["scale"]).view(np.uint8)
    if format.double:
        nested = np.ascontiguousarray(fields["nested"])
        return stored, "dq", doubled.dynamic_map(), nested, float(fields["offset"][0])
    return stored, format.scale, _NO_NUMBERS, _NO_NUMBERS, 0.0


def steps_and_zeros(
    coding: Coding, source: Bytes, numbers: str, importance: Floats | None, isa: str
) -> tuple[Floats, npt.NDArray[np.uint8], tuple[float, int]]:
    """The best steps and whole zero points (rows, groups of a row) of `coding`, and the extent of the numbers."""
    rows, cols = len(source), source.shape[1] // NUMBERS[numbers]
    shape = (rows, cols // (coding.group or cols))
    found, seen = _fitted(_groups(coding, cols, ()), shape, source, numbers, importance, isa)
    return found["step"].numpy(), found["zero"].numpy().astype(np.uint8), seen


def encode_codes(coding: Coding, source: Bytes, numbers: str, scales: Floats, isa: str) -> Bytes:
    """The codes alone, packed, under the steps `scales` (rows, groups of a row)."""
    rows, cols = len(source), source.shape[1] // NUMBERS[numbers]
    codes, measured = np.empty((rows, packed_bytes(cols, coding.bits)), np.uint8), (np.empty(rows), np.empty(rows))
    zeros = np.zeros(scales.shape, np.uint8)
    native_module().encode_groups(
        _groups(coding, cols, ()), source, numbers, np.ascontiguousarray(scales), zeros, codes, *measured, isa
    )
    return codes


def coding_of(format: Format) -> Coding:
    """How the native kernel codes `format`; raises KernelError where there is none."""
    return _required(format)[1]


def _required(format: Format) -> tuple[Scaled, Coding]:
    if isinstance(format, Scaled) and format.coding:
        return format, format.coding
    raise KernelError(f"there is no native codec for {format.name}; its torch implementation does the same, slower")


def _learned(coding: Coding) -> bool:
    """Whether parameters bring the table."""
    return coding.steps == "table" and not coding.table


def _table(format: Scaled, coding: Coding, like: Params | None) -> tuple[float, ...]:
    if not _learned(coding):
        return coding.table
    assert like is not None, "a table is learned by prepare"
    return tuple(like["table"].flatten().tolist())


@lru_cache(maxsize=256)
def _groups(coding: Coding, cols: int, table: tuple[float, ...]) -> Any:
    """The coding as the native module takes it, a group of all columns counted."""
    codes = [coding.bottom, coding.top, coding.middle, coding.flip]
    steps, group = STEPS.index(coding.steps), coding.group or cols
    return native_module().groups(steps, coding.bits, coding.fives, group, codes, list(coding.levels), list(table))


def _fitted(
    groups: Any, shape: tuple[int, int], source: Bytes, numbers: str, importance: Floats | None, isa: str
) -> tuple[dict[str, torch.Tensor], tuple[float, int]]:
    """Steps and zero points (rows, groups of a row), and the extent of the numbers."""
    steps, zeros = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    seen = native_module().fit_groups(groups, source, numbers, importance, steps, zeros, isa)
    return {"step": torch.from_numpy(steps), "zero": torch.from_numpy(zeros).float()}, seen


def _per_row(
    format: Scaled, coding: Coding, params: Params, shape: tuple[int, int]
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Scales and zero points as kernels take them: of every group of every row, whoever shares them."""
    scales = np.ascontiguousarray(np.broadcast_to(format.scales(params).numpy(), shape), np.float32)
    if coding.steps != "zero":
        return scales, np.zeros(shape, np.uint8)
    return scales, np.ascontiguousarray(np.broadcast_to(params["zero"].numpy(), shape)).astype(np.uint8)
