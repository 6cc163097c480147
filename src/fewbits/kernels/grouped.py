"""Native codecs of integers and tables under one scale per group, for any member of their families.

Scales are found natively and stored as the format stores them (as numbers of 32 or 16 bits, or quantized); then codes
are chosen under what is stored. Scales are few; that step in between is the format's own code.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import KernelError
from fewbits.formats.base import Fields, Format, Params, Shape, check_fields, spans_per_row
from fewbits.formats.coding import STEPS, Coding
from fewbits.formats.scaled import Scaled
from fewbits.kernels import NUMBERS, Bytes, EncodedFields, Floats, decode_rows
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


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
    source = np.ascontiguousarray(source)
    found, extent = _fitted(scaled, coding, source, numbers, importance, isa)
    if scaled.scope.rows == 0:
        params = like or scaled.prepare([torch.from_numpy(decode_rows(numbers, source, cols))])
    else:
        params = _stored(scaled, coding, found, like)
    assert params is not None, "a scale of the whole tensor is made by prepare"
    scales, zeros = _per_row(scaled, coding, params, (rows, found["step"].shape[1]))
    codes = np.empty(scaled.shapes(rows, cols)["codes"][1], np.uint8)
    squared_error, squared = np.empty(rows), np.empty(rows)
    native_module().encode_groups(
        _groups(coding, cols), source, numbers, scales, zeros, codes, squared_error, squared, isa
    )
    fields = {"codes": codes, **scaled.parameter_fields(params)}
    return EncodedFields(fields, squared_error, squared, *extent)


def _stored(format: Scaled, coding: Coding, found: dict[str, torch.Tensor], like: Params | None) -> Params:
    zeros = {"zero": found["zero"]} if coding.steps == "zero" else {}
    return format.shared(**format.stored_scales(found["step"], like), **zeros)


def decode_fields(format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored fields, written `into` an array or a new one."""
    scaled, coding = _required(format)
    check_fields(scaled.name, fields, scaled.shapes(*shape))
    rows, cols = shape
    params = scaled.parameters(fields)
    scales, zeros = _per_row(scaled, coding, params, (rows, cols // (coding.group or cols)))
    w = np.empty(shape, np.float32) if into is None else into
    codes = np.ascontiguousarray(fields["codes"])
    native_module().decode_groups(_groups(coding, cols), codes, scales, zeros, w, isa)
    return w


def _required(format: Format) -> tuple[Scaled, Coding]:
    if isinstance(format, Scaled) and format.coding:
        return format, format.coding
    raise KernelError(f"there is no native codec for {format.name}; its torch implementation does the same, slower")


@cache
def _groups(coding: Coding, cols: int) -> Any:
    """The coding as the native module takes it, a group of all columns counted."""
    codes = [coding.bottom, coding.top, coding.middle, coding.flip]
    steps, group = STEPS.index(coding.steps), coding.group or cols
    return native_module().groups(steps, coding.bits, group, codes, list(coding.levels), list(coding.table))


def _fitted(
    format: Scaled, coding: Coding, source: Bytes, numbers: str, importance: Floats | None, isa: str
) -> tuple[dict[str, torch.Tensor], tuple[float, int]]:
    """Steps and zero points of all groups, and the extent of the numbers."""
    rows, cols = len(source), source.shape[1] // NUMBERS[numbers]
    count = spans_per_row(format.name, coding.group, cols)
    steps, zeros = np.empty((rows, count), np.float32), np.empty((rows, count), np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    extent = native_module().fit_groups(_groups(coding, cols), source, numbers, importance, steps, zeros, isa)
    found = {"step": torch.from_numpy(steps), "zero": torch.from_numpy(zeros).float()}
    return found, extent


def _per_row(
    format: Scaled, coding: Coding, params: Params, shape: tuple[int, int]
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Scales and zero points as kernels take them: of every group of every row, whoever shares them."""
    scales = np.ascontiguousarray(np.broadcast_to(format.scales(params).numpy(), shape), np.float32)
    if coding.steps != "zero":
        return scales, np.zeros(shape, np.uint8)
    return scales, np.ascontiguousarray(np.broadcast_to(params["zero"].numpy(), shape)).astype(np.uint8)
