"""Native codecs of formats that have several fields on disk: integers and tables in `grouped`, those with an offset of
their own in `lines`, small floats here.

Small floats say by `native` how their codec is called.

What all rows share (the scale of a tensor, NVFP4's scale of 32 bits) comes from `Format.prepare`; without it the slab
is taken for the whole tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fewbits.errors import KernelError
from fewbits.formats.base import Fields, Format, Native, Params, Shape
from fewbits.formats.fields import to_field
from fewbits.kernels import NUMBERS, Bytes, EncodedFields, Floats, absmax, extent, grouped, lines
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


class _Codec(Protocol):
    """A module of codecs."""

    def has_codec(self, format: Format) -> bool:
        """Whether it codes `format`."""

    def encode_fields(
        self,
        format: Format,
        source: Bytes,
        numbers: str,
        *,
        like: Params | None = None,
        importance: Floats | None = None,
        isa: str = "",
    ) -> EncodedFields:
        """As `encode_fields` of this module."""

    def decode_fields(
        self, format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = ""
    ) -> Floats:
        """As `decode_fields` of this module."""


_CODECS: tuple[_Codec, ...] = (grouped, lines, absmax)


def has_fields_codec(format: Format) -> bool:
    """Whether `format` has a native codec."""
    native = getattr(format, "native", None)
    own = isinstance(native, Native) and native.kind in native_module().kinds()
    return own or any(codec.has_codec(format) for codec in _CODECS)


def encode_fields(
    format: Format,
    source: Bytes,
    numbers: str,
    *,
    like: Params | None = None,
    importance: Floats | None = None,
    isa: str = "",
) -> EncodedFields:
    """Fit, choose and pack codes for `source`, (rows, bytes of `numbers`); rows begin where a line of scales begins.

    `like` brings what `Format.prepare` made. `importance` (cols,) weighs squared errors. The same numbers give the same
    fields on every instruction set and in every slab. Raises FormatError when the width does not fit.
    """
    for codec in _CODECS:
        if codec.has_codec(format):
            return codec.encode_fields(format, source, numbers, like=like, importance=importance, isa=isa)
    native, rows, cols = _native(format), len(source), source.shape[1] // NUMBERS[numbers]
    shapes = format.shapes(rows, cols)
    fields: Fields = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
    source = np.ascontiguousarray(source)
    if 0 in (native.rows, format.rows):
        fields |= _shared(format, source, numbers, like)
    squared_error, squared = np.empty(rows), np.empty(rows)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    largest, not_finite = native_module().encode_fields(
        native.kind, source, numbers, *_arrays(native, fields), squared_error, squared, importance, isa
    )
    return EncodedFields(fields, squared_error, squared, largest, not_finite)


def decode_fields(format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored fields, written `into` an array or a new one."""
    for codec in _CODECS:
        if codec.has_codec(format):
            return codec.decode_fields(format, fields, shape, into=into, isa=isa)
    w = np.empty(shape, np.float32) if into is None else into
    native = _native(format)
    native_module().decode_fields(native.kind, *_arrays(native, fields), w, isa)
    return w


def _native(format: Format) -> Native:
    if not has_fields_codec(format):
        raise KernelError(f"there is no native codec for {format.name}; its torch implementation does the same, slower")
    native: Native = format.native  # type: ignore[attr-defined]
    return native


def _shared(format: Format, source: Bytes, numbers: str, like: Params | None) -> Fields:
    """The fields that all rows share."""
    if like is None:
        like = format.prepare([torch.tensor([[extent(source, numbers)[0]]])])
    assert like is not None, "rows share parameters, so something makes them"
    native = _native(format)
    return {
        name: to_field(like[name], native.scale if name == "scale" else "f32")
        for name, rows in like.rows.items()
        if rows == 0
    }


def _arrays(native: Native, fields: Fields) -> tuple[Bytes, Bytes, tuple[Any, ...]]:
    """Codes, scales as bytes, and what they mean."""
    codes, scale = np.ascontiguousarray(fields["codes"]), np.ascontiguousarray(fields["scale"])
    given = float(fields[native.given][0, 0]) if native.given else 1.0
    return codes, scale.view(np.uint8), (native.rows, native.span, native.scale, given)
