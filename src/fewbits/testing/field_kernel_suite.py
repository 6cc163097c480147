"""What every native codec of a format with several fields must do: the fields and numbers of torch, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fewbits import kernels
from fewbits.formats.base import Fields, Format, Native, Params, Shape
from fewbits.kernels.fields import decode_fields, encode_fields, has_fields_codec
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.inputs import DTYPES, matrices, normal, stored

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPANS = (1, 2, 3, 5, 15, 17, 33)
"""Numbers of spans, or of columns in sevens where a span is a row, that leave every kind of tail."""

ROUNDING = 1e-12
"""Relative difference that another order of summation in double may make."""


def check_field_kernel(format: Format) -> None:
    """Compare the native codec of `format` with torch, on every instruction set of this machine.

    Raises AssertionError naming the instruction set and the input that tells them apart.
    """
    expect(has_fields_codec(format), f"{format.name} has no native codec")
    for name, numbers, w in _inputs(format):
        where = f"{format.name} on {name} numbers as {numbers}"
        _check_encoding(format, w, numbers, where)
        _check_importance(format, w, numbers, where)
    _check_slabs(format)
    _check_random_fields(format)
    _check_extent(format)


def _inputs(format: Format) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(what it is, type of the numbers, matrix): hard matrices as F32, every tail as every type, rows of tiles."""
    span = format.span or 11
    for name, w in matrices(5, 3 * span * -(-11 // span), format.largest).items():
        yield name, "F32", w
    for spans in SPANS:
        for numbers in DTYPES:
            yield f"{spans} spans of", numbers, normal(1, spans * (format.span or 7), spans)
    yield "many rows of heavy-tailed", "BF16", normal(2 * max(format.rows, 3) + 5, 2 * (format.span or 21), 9) ** 3


def _check_encoding(format: Format, w: torch.Tensor, numbers: str, where: str) -> None:
    """Fields equal to torch's, sums of errors equal to each other and close to torch's."""
    w, slab = stored(w, numbers)
    params = format.fit(w)
    codes = format.encode(w, params)
    wanted, back = format.fields(codes, params), format.decode(codes, params)
    errors, squares = ((back.double() - w.double()).square().sum(1).numpy(), w.double().square().sum(1).numpy())
    first = None
    for isa in kernels.available():
        found = encode_fields(format, slab, numbers, isa=isa)
        _expect_fields(found.fields, wanted, f"{where}: {isa}")
        first = first or found
        same = np.array_equal(found.squared_error, first.squared_error) and np.array_equal(found.squared, first.squared)
        expect(same, f"{where}: {isa} sums errors otherwise than {kernels.available()[0]}")
        close = np.allclose(found.squared_error, errors, rtol=1e-5, atol=ROUNDING * float(squares.sum()))
        expect(close, f"{where}: {isa} measures other errors than torch")
        expect_equal((found.largest, found.not_finite), (float(w.abs().max()), 0), f"{where}: {isa}: extent")
    _check_decoding(format, wanted, (len(w), w.shape[1]), where)


def _expect_fields(found: Fields, wanted: Fields, where: str) -> None:
    expect_equal(set(found), set(wanted), f"{where}: fields")
    for name, field in wanted.items():
        different = int((found[name] != field).sum())
        expect(different == 0, f"{where} stores {different} of {field.size} numbers in {name} that torch does not")


def _check_importance(format: Format, w: torch.Tensor, numbers: str, where: str) -> None:
    """Weighted by importance, the fields are torch's too."""
    w, slab = stored(w, numbers)
    importance = normal(1, w.shape[1], 77)[0].square()
    importance[:: w.shape[1] // 4 + 1] = 0.0
    params = format.fit(w, importance=format.weights(w, importance))
    wanted = format.fields(format.encode(w, params), params)
    for isa in kernels.available():
        found = encode_fields(format, slab, numbers, importance=importance.numpy(), isa=isa)
        _expect_fields(found.fields, wanted, f"{where}, weighted: {isa}")


def _check_decoding(format: Format, fields: Fields, shape: Shape, where: str) -> None:
    wanted = format.decode(*format.from_fields(fields, shape)).numpy()
    for isa in kernels.available():
        found = decode_fields(format, fields, shape, isa=isa)
        real = ~np.isnan(wanted)
        expect(np.array_equal(np.isnan(found), ~real), f"{where}: {isa} decodes NaN elsewhere than torch")
        same = np.array_equal(found.view(np.uint32)[real], wanted.view(np.uint32)[real])
        expect(same, f"{where}: {isa} decodes other numbers than torch")


def _check_slabs(format: Format) -> None:
    """Slabs under what all rows share make the fields of the whole."""
    rows = max(format.rows, 1)
    w = normal(3 * rows + 2, 3 * (format.span or 7), 6)
    shared = format.prepare([w])
    _, whole = stored(w, "F32")
    wanted = encode_fields(format, whole, "F32", like=shared).fields
    parts = [encode_fields(format, whole[s], "F32", like=shared) for s in (slice(0, rows), slice(rows, len(w)))]
    params = Params.join([format.from_fields(p.fields, (len(p.squared), w.shape[1]))[1] for p in parts])
    codes = torch.cat([format.from_fields(p.fields, (len(p.squared), w.shape[1]))[0] for p in parts])
    _expect_fields(format.fields(codes, params), wanted, f"{format.name} in slabs: {kernels.isa()}")


def _check_random_fields(format: Format) -> None:
    """Whatever a file brings, every instruction set makes the same numbers of it."""
    for seed, spans in enumerate(SPANS):
        shape = (2 * max(format.rows, 2) + 1, spans * (format.span or 7))
        fields = encode_fields(format, stored(normal(*shape), "F32")[1], "F32").fields
        generator = np.random.default_rng(seed)
        for name, field in fields.items():
            raw = generator.integers(0, 256, field.nbytes, np.uint8).view(field.dtype).reshape(field.shape)
            native = getattr(format, "native", None)
            given = isinstance(native, Native) and name == native.given
            fields[name] = field if given else raw
        _check_decoding(format, fields, shape, f"{format.name} on {spans} spans of random bytes")


def _check_extent(format: Format) -> None:
    """NaN and infinity are counted while encoding, wherever they stand, and do not hide the largest number."""
    w = normal(3, 5 * (format.span or 7), 9).clamp(-5, 5)
    w[1, 0], w[2, -1], w[0, 2] = torch.nan, -torch.inf, -7.0
    for numbers, dtype in DTYPES.items():
        slab = w.to(getattr(torch, dtype)).view(torch.uint8).numpy()
        for isa in kernels.available():
            found = encode_fields(format, slab, numbers, isa=isa)
            expect_equal((found.largest, found.not_finite), (7.0, 2), f"{format.name}, {isa}: extent while encoding")
