"""Codes and scales of other containers as spans of 32 columns (native/packed/groups.h): nothing is rounded again.

A scale that serves more columns is repeated. Where it is a number of 16 bits the spans are those of Q4_0 and Q8_0, or
have whole zero points; else it is a float, and so is what is taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.equivalents import BY_FIELDS
from fewbits.errors import EngineError
from fewbits.formats import Fields, Format
from fewbits.formats.absmax import UNIT, AbsMax
from fewbits.formats.base import Bytes, Shape
from fewbits.formats.codebooks import Codebook
from fewbits.formats.doubled import GROUP, dynamic_map
from fewbits.formats.fields import pack_bits, unpack_bits
from fewbits.formats.integers import Integer
from fewbits.formats.minifloat import E4M3
from fewbits.formats.nvfp4 import NV, DividedNV
from fewbits.formats.offsets import FloatZero, FreeBias
from fewbits.formats.scaled import Scaled
from fewbits.formats.ternary import Ternary

Floats = npt.NDArray[np.float32]

SPAN = 32
"""Columns of a span."""
READ = "whole numbers of 2 to 8 bits, tables of NF4 and FP4, NVFP4, ternary codes, small floats, and all GGUF types"
"""What is read, as a sentence says it."""


@dataclass(frozen=True)
class Spans:
    """Rows of spans of the engine's type `type`: `data` (rows, bytes per row)."""

    type: str
    data: Bytes


@dataclass(frozen=True)
class Given:
    """A matrix in another container."""

    fields: Fields
    shape: Shape
    alone: bool
    """Whether its type may follow from its numbers: matrices of experts, which become one stack, need the same."""


def spans_of(format: Format, given: Given) -> Spans | None:
    """A matrix of `format` as spans; None where the engine has none for the format.

    Raises EngineError where groups or columns fill no whole spans.
    """
    make = _MAKERS.get(type(format))
    return None if make is None else make(format, given)


def _whole_spans(format: Scaled | NV, cols: int, least: int = SPAN) -> int:
    """Columns of a group; raises EngineError where they, or all columns, are no multiple of what a span needs."""
    group = format.span or cols
    if group % least or cols % SPAN:
        raise EngineError(
            f"groups of {group} of {cols} columns ({format.name}) do not fill spans of {SPAN} columns; quantize the "
            "model in groups of 32, 64 or 128."
        )
    return group


def _each_span(format: Scaled | NV, numbers: Floats, shape: Shape, least: int = SPAN) -> Floats:
    """Numbers of groups, (lines, n), for every `least` columns of every row."""
    rows, cols = shape
    group = _whole_spans(format, cols, least)
    lines = np.repeat(numbers, format.rows, axis=0)[:rows] if format.rows > 1 else numbers
    return np.broadcast_to(np.repeat(lines, group // least, axis=1), (rows, cols // least))


def _numbers(field: npt.NDArray[Any]) -> Floats:
    """A field of floats of 32 or 16 bits, or of the upper halves of floats."""
    if field.dtype == np.uint16:
        widened: Floats = (field.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    return field.astype(np.float32)


def _scales(format: Scaled, given: Given) -> Floats:
    """The scale of every span (rows, cols / 32)."""
    fields = given.fields
    if not format.double:
        return _each_span(format, _numbers(fields["scale"]), given.shape)
    codes = fields["scale"]
    nested = np.repeat(fields["nested"], GROUP)[: codes.size].reshape(codes.shape)
    group = _whole_spans(format, given.shape[1])
    return np.repeat(dynamic_map()[codes] * nested + fields["offset"], group // SPAN, axis=1)


def _halves(format: Scaled, given: Given, scales: Floats) -> npt.NDArray[np.float16] | None:
    """The scales as binary16, where that is what they are or holds all of them."""
    if format.scale != "f16" and not given.alone:
        return None
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(scales.astype(np.float16))
    return halves if np.array_equal(halves.astype(np.float32), scales) else None


def _joined(rows: int, *parts: npt.NDArray[Any]) -> Bytes:
    """Arrays (rows, spans, ...) as bytes, one part of a span behind another."""
    spans = parts[0].shape[1]
    raw = [np.ascontiguousarray(part).view(np.uint8).reshape(rows, spans, -1) for part in parts]
    return np.concatenate(raw, axis=-1).reshape(rows, -1)


# ---- whole numbers

_WIDTHS = {1: 2, 2: 2, 3: 3, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
"""Bits of a code -> bits of the span's."""


def _counted(codes: Bytes, bits: int, cols: int, *, flip: bool) -> tuple[Bytes, int]:
    """Packed codes (rows, bytes) counted from the lowest one, in a width that spans have; the width.

    Of a wider one the middle is that of the narrow one: code - middle stays what it is.
    """
    middle, width = 2 ** (bits - 1), _WIDTHS[bits]
    if width == bits:
        mask = pack_bits(np.full((1, cols), middle, np.uint8), bits) if flip else np.uint8(0)
        return codes ^ mask, width
    whole = unpack_bits(codes, bits, cols) ^ np.uint8(middle if flip else 0)
    return pack_bits(whole + np.uint8(2 ** (width - 1) - middle), width), width


def _even(packed: Bytes, width: int, scales: Floats, halves: npt.NDArray[np.float16] | None) -> Spans:
    """Of scale * (code - middle): as Q4_0 or Q8_0 where binary16 holds the scales."""
    rows, spans = scales.shape
    pair = BY_FIELDS.get(f"int{width}_g32_sym_f16")
    if pair and halves is not None:
        turned, _ = _counted(packed, width, spans * SPAN, flip=True)
        return Spans(pair.rows, pair.to_rows({"scale": halves, "codes": turned}))
    if width not in (4, 8):
        return _line(packed, width, scales, np.zeros_like(scales))
    return Spans(f"even{width}", _joined(rows, scales[..., None], packed.reshape(rows, spans, -1)))


def _line(packed: Bytes, width: int, scales: Floats, minimums: Floats) -> Spans:
    """Of scale * (code - middle) - minimum."""
    rows, spans = scales.shape
    both = np.stack([scales, minimums], axis=-1).astype(np.float32)
    return Spans(f"line{width}", _joined(rows, both, packed.reshape(rows, spans, -1)))


def _integer(format: Integer, given: Given) -> Spans:
    scales, cols = _scales(format, given), given.shape[1]
    packed, width = _counted(given.fields["codes"], format.code_bits, cols, flip=format.signed)
    if format.symmetric and format.code_bits == 1:  # 2 * scale * code - scale, with codes from the middle 2 - 1 on
        return _line(packed, width, 2 * scales, -scales)
    halves = _halves(format, given, scales)
    if format.symmetric:
        return _even(packed, width, scales, halves)
    zeros = _zeros(format, given)
    if width == 4 and halves is not None:
        codes = packed.reshape(*scales.shape, -1)
        return Spans("zero4", _joined(len(codes), halves[..., None], zeros.astype(np.int16)[..., None], codes))
    return _line(packed, width, scales, scales * zeros)


def _zeros(format: Integer, given: Given) -> Floats:
    """The zero point of every span, counted from the middle code."""
    groups = given.shape[1] // (format.span or given.shape[1])
    stored = unpack_bits(given.fields["zero"], format.code_bits, groups)
    counted = stored ^ np.uint8(format.middle if format.signed else 0)
    return _each_span(format, counted.astype(np.float32) - np.float32(format.middle), given.shape)


def _absmax(format: AbsMax, given: Given) -> Spans:
    scales = _scales(format, given) * np.float32(UNIT)
    packed, width = _counted(given.fields["codes"], 8, given.shape[1], flip=True)
    return _even(packed, width, scales, None)


def _ternary(format: Ternary, given: Given) -> Spans:
    scales = _scales(format, given)
    packed = pack_bits(format.unpacked_codes(given.fields["codes"], given.shape[1]) + np.uint8(1), 2)
    return _even(packed, 2, scales, None)


def _bias(format: FreeBias, given: Given) -> Spans:
    scales, bias = (_each_span(format, _numbers(given.fields[name]), given.shape) for name in ("scale", "bias"))
    packed, width = _counted(given.fields["codes"], format.code_bits, given.shape[1], flip=False)
    return _line(packed, width, scales, -(bias + scales * np.float32(2 ** (format.code_bits - 1))))


def _floatzero(format: FloatZero, given: Given) -> Spans:
    scales, zeros = (_each_span(format, _numbers(given.fields[name]), given.shape) for name in ("scale", "zero"))
    packed, width = _counted(given.fields["codes"], format.code_bits, given.shape[1], flip=False)
    return _line(packed, width, scales, scales * (zeros - np.float32(2 ** (format.code_bits - 1))))


# ---- tables

_STEPS = {"nf4": ("nf4", 112.03), "fp4_bnb": ("fp4", 120)}
"""Kind of table -> the engine's type, and how many of its steps make 1 (native/packed/groups.h)."""


def _codebook(format: Codebook, given: Given) -> Spans | None:
    if format.kind not in _STEPS:
        return None
    type, steps = _STEPS[format.kind]
    scales = _scales(format, given)
    both = np.stack([scales / np.float32(steps), scales], axis=-1)
    return Spans(type, _joined(len(scales), both, given.fields["codes"].reshape(*scales.shape, -1)))


@cache
def _e4m3() -> Floats:
    return np.array([E4M3.number(code) for code in range(256)], np.float32)


def _nvfp4(format: NV, given: Given) -> Spans:
    fields, shape = given.fields, given.shape
    shared: Floats = fields[format.shared]
    numbers = _e4m3()[fields["scale"]]
    scales: Floats = numbers / shared if isinstance(format, DividedNV) else shared * numbers
    halves = np.float32(0.5) * _each_span(format, scales, shape, 16)  # of twice the numbers
    rows, spans = shape[0], shape[1] // SPAN
    return Spans("e2m1", _joined(rows, halves.reshape(rows, spans, 2), fields["codes"].reshape(rows, spans, -1)))


_MAKERS: dict[type, Callable[[Any, Given], Spans | None]] = {
    Integer: _integer,
    AbsMax: _absmax,
    Ternary: _ternary,
    FreeBias: _bias,
    FloatZero: _floatzero,
    Codebook: _codebook,
    NV: _nvfp4,
    DividedNV: _nvfp4,
}
