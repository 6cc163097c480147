"""What every native codec must do: the bytes and numbers of the torch format, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fewbits import kernels
from fewbits.formats import row_bytes
from fewbits.formats.base import Bytes, Format, RowFormat, as_row_format
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.inputs import DTYPES, matrices, normal, stored

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPANS = (1, 2, 3, 5, 7, 15, 16, 17, 31, 33)
"""Numbers of spans that leave every kind of tail."""
FEW_SPANS = (1, 2, 3, 17)
"""For lattices: the scalar reference tries every point, and they are coded one span at a time."""

ROUNDING = 1e-6
"""Relative difference that squares in single precision may make (native/include/fewbits/kernels.h)."""


def check_kernel(any_format: Format) -> None:
    """Compare the native codecs of a row format with torch, on every instruction set of this machine.

    Raises AssertionError naming the instruction set and the input that tells them apart.
    """
    format = as_row_format(any_format)
    expect(format.name in kernels.formats(), f"{format.name} has no native codec")
    for name, numbers, slab in _slabs(format):
        where = f"{format.name} on {name} numbers as {numbers}"
        stored = _check_encoding(format, slab, numbers, where)
        _check_decoding(format, stored, slab.shape[1] // kernels.NUMBERS[numbers], where)
        _check_reader(format, stored, slab, numbers, where)
        if format.name in kernels.weighted_formats():
            _check_importance(format, slab, numbers, where)
    _check_random_bytes(format)
    _check_extent(format)


def _slabs(format: RowFormat) -> Iterator[tuple[str, str, Bytes]]:
    """(what it holds, type of its numbers, bytes): hard matrices as F32, every tail as every type."""
    width = max(format.span, 16)
    for name, w in matrices(5, 3 * width, format.largest).items():
        yield name, "F32", stored(w, "F32")[1]
    for spans in SPANS if format.vector == 1 else FEW_SPANS:
        for numbers in DTYPES:
            yield f"{spans} spans of", numbers, stored(normal(1, spans * format.span, spans), numbers)[1]
        yield f"3 rows of {spans} spans of heavy-tailed", "F32", stored(normal(3, spans * format.span) ** 3, "F32")[1]


def _check_encoding(format: RowFormat, slab: Bytes, numbers: str, where: str) -> Bytes:
    """Bytes equal to torch's, sums of errors equal to each other and close to torch's; returns the bytes."""
    w = torch.from_numpy(slab.copy()).view(getattr(torch, DTYPES[numbers])).float()
    params = format.fit(w)
    codes = format.encode(w, params)
    wanted = format.pack(codes, params)
    errors = (format.decode(codes, params).double() - w.double()).square().sum(1).numpy()
    squares = w.double().square().sum(1).numpy()
    first: kernels.Encoded | None = None
    for isa in kernels.available():
        found = kernels.encode_rows(format.name, slab, numbers, row_bytes(format, w.shape[1]), isa=isa)
        different = int((found.stored != wanted).sum())
        expect(different == 0, f"{where}: {isa} stores {different} bytes that torch does not")
        first = first or found
        same = np.array_equal(found.squared_error, first.squared_error) and np.array_equal(found.squared, first.squared)
        expect(same, f"{where}: {isa} sums errors otherwise than {kernels.available()[0]}")
        close = np.allclose(found.squared_error, errors, rtol=ROUNDING, atol=0)
        close &= np.allclose(found.squared, squares, rtol=ROUNDING, atol=0)
        expect(close, f"{where}: {isa} measures other errors than torch")
        expect_equal((found.largest, found.not_finite), (float(w.abs().max()), 0), f"{where}: {isa}: extent")
    return wanted


def _check_importance(format: RowFormat, slab: Bytes, numbers: str, where: str) -> None:
    """Weighted by importance, the bytes are torch's too, and sums of errors equal to each other."""
    w = torch.from_numpy(slab.copy()).view(getattr(torch, DTYPES[numbers])).float()
    importance = normal(1, w.shape[1], 77)[0].square()
    importance[:: w.shape[1] // 4 + 1] = 0.0
    weights = format.weights(w, importance)
    params = format.fit(w, importance=weights)
    wanted = format.pack(format.encode(w, params, importance=weights), params)
    first: kernels.Encoded | None = None
    for isa in kernels.available():
        size = row_bytes(format, w.shape[1])
        found = kernels.encode_rows(format.name, slab, numbers, size, importance=importance.numpy(), isa=isa)
        different = int((found.stored != wanted).sum())
        expect(different == 0, f"{where}, weighted: {isa} stores {different} bytes that torch does not")
        first = first or found
        same = np.array_equal(found.squared_error, first.squared_error) and np.array_equal(found.squared, first.squared)
        expect(same, f"{where}, weighted: {isa} sums errors otherwise than {kernels.available()[0]}")


def _check_decoding(format: RowFormat, stored: Bytes, cols: int, where: str) -> None:
    wanted = format.decode(*format.unpack(stored, cols)).numpy()
    for isa in kernels.available():
        found = kernels.decode_rows(format.name, stored, cols, isa=isa)
        real = ~np.isnan(wanted)
        expect(np.array_equal(np.isnan(found), ~real), f"{where}: {isa} decodes NaN elsewhere than torch")
        same = np.array_equal(found.view(np.uint32)[real], wanted.view(np.uint32)[real])
        expect(same, f"{where}: {isa} decodes other numbers than torch")


def _check_reader(format: RowFormat, stored: Bytes, slab: Bytes, numbers: str, where: str) -> None:
    """The verifier's reader finds the same errors, and within the bound of the format."""
    encoded = kernels.encode_rows(format.name, slab, numbers, stored.shape[1])
    found = kernels.compare_rows(format.name, stored, slab, numbers, format.error_floor)
    same = np.allclose(found.squared_error, encoded.squared_error, rtol=ROUNDING, atol=0)
    same &= np.allclose(found.squared, encoded.squared, rtol=ROUNDING, atol=0)
    expect(same, f"{where}: the verifier's reader finds other errors than the codec")
    expect(found.worst <= format.error_bound, f"{where}: the verifier finds an error of {found.worst:.4g}")


def _check_random_bytes(format: RowFormat) -> None:
    """Whatever bytes a file brings, every reader makes the same numbers of them."""
    for seed, spans in enumerate(SPANS):
        generator = torch.Generator().manual_seed(seed)
        shape = (4, spans * format.span_bytes)
        stored = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
        _check_decoding(format, stored, spans * format.span, f"{format.name} on {spans} spans of random bytes")


def _check_extent(format: RowFormat) -> None:
    """NaN and infinity are counted, wherever they stand, and do not hide the largest number."""
    spans = 33 if format.span == 1 else 3
    w = normal(3, spans * format.span, 9).clamp(-5, 5)
    w[1, 0], w[2, -1], w[0, format.span // 2] = torch.nan, -torch.inf, -7.0
    size = row_bytes(format, w.shape[1])
    for numbers in DTYPES:
        slab = stored(w, numbers)[1]
        for isa in kernels.available():
            expect_equal(kernels.extent(slab, numbers, isa=isa), (7.0, 2), f"{isa}: extent of {numbers}")
            encoded = kernels.encode_rows(format.name, slab, numbers, size, isa=isa)
            found = (encoded.largest, encoded.not_finite)
            expect_equal(found, (7.0, 2), f"{format.name}, {isa}: extent while encoding {numbers}")
