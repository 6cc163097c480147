"""What native kernels of integers and tables under scales must do: the fields and numbers of torch, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fewbits import kernels
from fewbits.errors import FormatError
from fewbits.formats.base import Bytes, Fields, Format, Params, Shape
from fewbits.kernels import grouped
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.inputs import DTYPES, matrices, normal, stored

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPANS = (1, 2, 3, 5, 15, 17, 33)
"""Numbers of spans, or of columns in sevens where a span is a row, that leave every kind of tail."""


def check_grouped(format: Format) -> None:
    """Compare the native codec of `format` with torch, on every instruction set of this machine.

    Raises AssertionError naming the instruction set and the input that tells them apart.
    """
    expect(grouped.has_codec(format), f"{format.name} has no native codec")
    for name, numbers, w in _inputs(format):
        where = f"{format.name} on {name} numbers as {numbers}"
        held, slab = stored(w, numbers)
        _check_encoding(format, held, slab, numbers, where)
        if format.rows != 0:
            _check_importance(format, held, slab, numbers, where)
    _check_slabs(format)
    _check_random_fields(format)
    _check_extent(format)


def _inputs(format: Format) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(what it is, type of the numbers, matrix): hard matrices as F32, every tail as every type."""
    span = format.span or 11
    for name, w in matrices(5, 3 * span * -(-11 // span), format.largest).items():
        yield name, "F32", w
    for spans in SPANS:
        for numbers in DTYPES:
            yield f"{spans} spans of", numbers, normal(2, spans * (format.span or 7), spans) ** 3


def _check_encoding(format: Format, w: torch.Tensor, slab: Bytes, numbers: str, where: str) -> None:
    """Fields equal to torch's, sums of errors equal to each other and close to torch's."""
    params = format.fit(w)
    codes = format.encode(w, params)
    wanted, back = format.fields(codes, params), format.decode(codes, params)
    errors, squares = (x.double().square().sum(1).numpy() for x in (back - w, w))
    first = None
    for isa in kernels.available():
        found = grouped.encode_fields(format, slab, numbers, isa=isa)
        _expect_fields(found.fields, wanted, f"{where}: {isa}")
        first = first or found
        same = np.array_equal(found.squared_error, first.squared_error) and np.array_equal(found.squared, first.squared)
        expect(same, f"{where}: {isa} sums errors otherwise than {kernels.available()[0]}")
        close = np.allclose(found.squared_error, errors, rtol=1e-5, atol=1e-12 * float(squares.sum()))
        expect(close, f"{where}: {isa} measures other errors than torch")
        expect_equal((found.largest, found.not_finite), (float(w.abs().max()), 0), f"{where}: {isa}: extent")
    _check_decoding(format, wanted, (len(w), w.shape[1]), where)


def _check_importance(format: Format, w: torch.Tensor, slab: Bytes, numbers: str, where: str) -> None:
    """Weighted by importance, the fields are torch's too."""
    importance = normal(1, w.shape[1], 77)[0].square()
    importance[:: w.shape[1] // 4 + 1] = 0.0
    params = format.fit(w, importance=format.weights(w, importance))
    wanted = format.fields(format.encode(w, params), params)
    for isa in kernels.available():
        found = grouped.encode_fields(format, slab, numbers, importance=importance.numpy(), isa=isa)
        _expect_fields(found.fields, wanted, f"{where}, weighted: {isa}")


def _expect_fields(found: Fields, wanted: Fields, where: str) -> None:
    expect_equal(set(found), set(wanted), f"{where}: fields")
    for name, field in wanted.items():
        different = int((found[name] != field).sum())
        expect(different == 0, f"{where} stores {different} of {field.size} numbers in {name} that torch does not")


def _check_decoding(format: Format, fields: Fields, shape: Shape, where: str) -> None:
    wanted = format.decode(*format.from_fields(fields, shape)).numpy()
    for isa in kernels.available():
        found = grouped.decode_fields(format, fields, shape, isa=isa)
        real = ~np.isnan(wanted)
        expect(np.array_equal(np.isnan(found), ~real), f"{where}: {isa} decodes NaN elsewhere than torch")
        same = np.array_equal(found.view(np.uint32)[real], wanted.view(np.uint32)[real])
        expect(same, f"{where}: {isa} decodes other numbers than torch")


def _check_slabs(format: Format) -> None:
    """Slabs under what all rows share make the fields of the whole."""
    w = normal(8, 3 * (format.span or 7), 6)
    shared, whole = format.prepare([w]), stored(w, "F32")[1]
    wanted = grouped.encode_fields(format, whole, "F32").fields
    cuts = [(0, 3), (3, 4), (4, 8)]
    likes = [shared and shared.slice(start, stop) for start, stop in cuts]
    parts = [grouped.encode_fields(format, whole[a:b], "F32", like=s) for (a, b), s in zip(cuts, likes, strict=True)]
    read = [
        format.from_fields(part.fields, (stop - start, w.shape[1]))
        for part, (start, stop) in zip(parts, cuts, strict=True)
    ]
    joined = format.fields(torch.cat([codes for codes, _ in read]), Params.join([params for _, params in read]))
    same = all(np.array_equal(joined[name], wanted[name]) for name in ("codes", "scale"))
    expect(same, f"{format.name}: slabs are coded otherwise than the whole")


def _check_random_fields(format: Format) -> None:
    """Whatever a file brings, every instruction set makes the same numbers of it."""
    for seed, spans in enumerate(SPANS):
        shape = (3, spans * (format.span or 7))
        generator = np.random.default_rng(seed)
        fields = {
            name: generator.integers(0, 256, np.empty(size, dtype).nbytes, np.uint8).view(dtype).reshape(size)
            for name, (dtype, size) in format.shapes(*shape).items()
        }
        where = f"{format.name} on {spans} spans of random bytes"
        if _refused(format, fields, shape, where):
            codes = generator.integers(0, grouped.coding_of(format).top + 1, shape, np.uint8)
            fields["codes"] = format.fields(torch.from_numpy(codes), format.fit(torch.ones(shape)))["codes"]
        _check_decoding(format, fields, shape, where)


def _refused(format: Format, fields: Fields, shape: Shape, where: str) -> bool:
    """Whether torch takes the fields for damaged; then the native codec does too."""
    refused = []
    for read in (format.from_fields, lambda fields, shape: grouped.decode_fields(format, fields, shape)):
        try:
            read(fields, shape)
        except FormatError as e:
            refused.append(str(e))
    expect(len(refused) != 1 and len(set(refused)) <= 1, f"{where}: torch and the native codec do not refuse the same")
    return bool(refused)


def _check_extent(format: Format) -> None:
    """NaN and infinity are counted while encoding, wherever they stand, and do not hide the largest number."""
    if format.rows == 0:  # what all rows share is made before, from numbers that are finite
        return
    w = normal(3, 5 * (format.span or 7), 9).clamp(-5, 5)
    w[1, 0], w[2, -1], w[0, 2] = torch.nan, -torch.inf, -7.0
    for numbers, dtype in DTYPES.items():
        slab = w.to(getattr(torch, dtype)).view(torch.uint8).numpy()
        for isa in kernels.available():
            found = grouped.encode_fields(format, slab, numbers, isa=isa)
            expect_equal((found.largest, found.not_finite), (7.0, 2), f"{format.name}, {isa}: extent while encoding")
