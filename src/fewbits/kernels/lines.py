"""Native codecs of whole numbers with an offset of their own (formats/offsets.py): fits, codes, numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.errors import KernelError
from fewbits.formats.base import Fields, Format, Params, Shape, check_fields, spans_per_row
from fewbits.formats.coding import Coding
from fewbits.formats.fields import pack_bits, unpack_bits
from fewbits.formats.lines import REFITS
from fewbits.formats.offsets import FURTHEST_ZERO, FloatZero, Offset
from fewbits.kernels import NUMBERS, Bytes, EncodedFields, Floats
from fewbits.kernels.grouped import steps_and_zeros
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def has_codec(format: Format) -> bool:
    """Whether a native kernel codes `format`."""
    return isinstance(format, Offset)


def encode_fields(
    format: Format,
    source: Bytes,
    numbers: str,
    *,
    like: Params | None = None,
    importance: Floats | None = None,
    isa: str = "",
) -> EncodedFields:
    """Fit, choose and pack codes for `source`, (rows, bytes of `numbers`); rows share nothing, `like` says nothing.

    `importance` (cols,) weighs squared errors. The same numbers give the same fields on every instruction set.
    """
    member = _required(format)
    rows, cols = len(source), source.shape[1] // NUMBERS[numbers]
    source, shape = np.ascontiguousarray(source), (rows, spans_per_row(member.name, member.span, cols))
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    whole = Coding("zero", member.code_bits, member.span, top=member.top, levels=member.levels)
    steps, zeros, seen = steps_and_zeros(whole, source, numbers, importance, isa)
    lines, (scales, offsets) = _lines(member, cols), (np.empty(shape, np.float32) for _ in range(2))
    native_module().fit_lines(lines, source, numbers, importance, steps, zeros, scales, offsets, isa)
    codes, squared_error, squared = np.empty((rows, cols), np.uint8), np.empty(rows), np.empty(rows)
    native_module().encode_lines(lines, source, numbers, scales, offsets, codes, squared_error, squared, isa)
    params = member.shared(scale=torch.from_numpy(scales), **{member.field: torch.from_numpy(offsets)})
    fields = {"codes": pack_bits(codes, member.code_bits), **member.parameter_fields(params)}
    return EncodedFields(fields, squared_error, squared, *seen)


def decode_fields(format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored fields, written `into` an array or a new one."""
    member = _required(format)
    check_fields(member.name, fields, member.shapes(*shape))
    params = member.parameters(fields)
    codes = unpack_bits(np.ascontiguousarray(fields["codes"]), member.code_bits, shape[1])
    w = np.empty(shape, np.float32) if into is None else into
    numbers = (np.ascontiguousarray(params[name].numpy()) for name in ("scale", member.field))
    native_module().decode_lines(_lines(member, shape[1]), codes, *numbers, w, isa)
    return w


def _required(format: Format) -> Offset:
    if isinstance(format, Offset):
        return format
    raise KernelError(f"there is no native codec for {format.name}; its torch implementation does the same, slower")


@lru_cache(maxsize=256)
def _lines(member: Offset, cols: int) -> Any:
    """The member as the native module takes it, a group of all columns counted."""
    moved = isinstance(member, FloatZero)
    facts = (int(moved), member.scale, member.span or cols, member.top, 1.0 / FURTHEST_ZERO[member.scale])
    return native_module().lines(facts, list(member.levels), REFITS)
