"""What every format must do, whatever its equation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats import bits, row_bytes
from fewbits.formats.base import Bytes, Format, Params
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.grid_laws import (
    check_columns,
    check_error_bound,
    check_half_step,
    check_nearest,
    check_reachable_codes,
)
from fewbits.testing.inputs import matrices, normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROWS, SPANS = 5, 3
REFIT = 1.05
"""How much worse a least-squares fit at given codes may be than the search that chose them: its scales are rounded."""


def check_format(format: Format) -> None:
    """Run every law of formats on `format`; raises AssertionError, naming the law and the input that breaks it."""
    _check_words(format)
    _check_widths(format)
    hard = matrices(ROWS, _columns(format), format.largest)
    stored = []
    for name, w in hard.items():
        where = f"{format.name} on {name} numbers"
        params, codes = _check_encoding(format, w, where)
        check_nearest(format, w, params, codes, where)
        check_half_step(format, w, params, where)
        check_reachable_codes(format, w, params, where)
        check_columns(format, w, params, codes, where)
        check_error_bound(format, w, format.decode(codes, params), where)
        stored.append(_check_bytes(format, params, codes, where))
    _check_rows(format, torch.cat(list(hard.values())), np.concatenate(stored))
    _check_refit(format)
    _check_importance(format)


def _columns(format: Format) -> int:
    return SPANS * max(format.span, 11)


def _check_words(format: Format) -> None:
    for word in ("name", "equation", "layout", "source"):
        expect(bool(getattr(format, word).strip()), f"{format.name} does not state its {word}")
    expect(format.span >= 1 and format.rows >= 0 and format.vector >= 1, f"{format.name} has an impossible span")
    expect(format.largest > 0, f"{format.name} can hold no number")
    expect(0 <= format.error_bound < 1, f"{format.name} bounds no error")
    expect(0 <= format.error_floor < 1, f"{format.name} has an impossible error floor")


def _check_widths(format: Format) -> None:
    for count in (1, 2, 7):
        expect_equal(row_bytes(format, count * format.span), count * format.span_bytes, f"{format.name}: bytes per row")
    if format.span > 1:
        try:
            row_bytes(format, format.span + 1)
        except FormatError:
            return
        raise AssertionError(f"{format.name} accepts a width that its span does not divide")


def _check_encoding(format: Format, w: torch.Tensor, where: str) -> tuple[Params, torch.Tensor]:
    """Fit and encode; the input stays as it is, codes repeat, and what came back once comes back again."""
    before = w.clone()
    params = format.fit(w)
    codes = format.encode(w, params)
    expect(codes.shape == w.shape, f"{where}: codes have the shape {tuple(codes.shape)}")
    expect(torch.equal(w, before), f"{where}: the input was changed")
    back = format.decode(codes, params)
    expect(back.dtype == torch.float32 and bool(back.isfinite().all()), f"{where}: what comes back is no number")
    again = format.decode(format.encode(back, params), params)
    expect(torch.equal(again, back), f"{where}: encoding is not idempotent")
    if not bool(w.any()):
        expect(not bool(back.any()), f"{where}: zero does not come back")
    return params, codes


def _check_bytes(format: Format, params: Params, codes: torch.Tensor, where: str) -> Bytes:
    """The bytes, which hold exactly what was packed."""
    rows, cols = codes.shape
    packed = format.pack(codes, params)
    expect(packed.dtype == "uint8" and packed.shape == (rows, row_bytes(format, cols)), f"{where}: wrong bytes per row")
    expect_equal(8 * packed.size, bits(format, rows, cols), f"{where}: bits")
    unpacked, read = format.unpack(packed, cols)
    expect(torch.equal(unpacked, codes), f"{where}: codes do not survive packing")
    for name, array in params.arrays.items():
        expect(torch.equal(read[name], array), f"{where}: parameter {name} does not survive packing")
    expect(set(read.arrays) == set(params.arrays), f"{where}: other parameters come back than were packed")
    expect(bool((format.pack(unpacked, read) == packed).all()), f"{where}: packing again gives other bytes")
    return packed


def _check_rows(format: Format, w: torch.Tensor, stored: Bytes) -> None:
    """Rows and spans do not influence each other: `stored` was made of a few rows at a time, this is all at once."""
    if format.rows != 1:
        return
    params = format.fit(w)
    codes = format.encode(w, params)
    expect(bool((format.pack(codes, params) == stored).all()), f"{format.name}: a row depends on the number of rows")
    order = (torch.arange(len(w)) * 7 + 3) % len(w)
    fitted = format.fit(w[order])
    same = bool((format.pack(format.encode(w[order], fitted), fitted) == stored[order.numpy()]).all())
    expect(same, f"{format.name}: a row depends on the rows around it")
    for row in (0, len(w) - 1):
        fitted = format.fit(w[row : row + 1])
        same = torch.equal(format.encode(w[row : row + 1], fitted), codes[row : row + 1])
        expect(same, f"{format.name}: row {row} alone gets other codes than among others")
    joined = Params.join([params.slice(0, 2), params.slice(2, len(w))])
    expect(torch.equal(format.encode(w, joined), codes), f"{format.name}: joined slabs of parameters give other codes")
    later = w[:, format.span :]
    same = torch.equal(format.encode(later, format.fit(later)), codes[:, format.span :])
    expect(same, f"{format.name}: a span depends on the one before it")


def _weighted_error(
    format: Format, w: torch.Tensor, importance: torch.Tensor, params: Params, codes: torch.Tensor
) -> float:
    r = format.decode(codes, params).double() - w.double()
    return float((importance.double() * r * r).sum())


def _check_refit(format: Format) -> None:
    """Least squares at given codes: never much worse than the parameters that chose them, and following the numbers."""
    w = normal(ROWS, _columns(format), 3)
    importance = 0.1 + normal(ROWS, _columns(format), 4).abs()
    start = format.fit(w, importance=importance)
    codes = format.encode(w, start)
    before = _weighted_error(format, w, importance, start, codes)
    refitted = format.fit(w, importance=importance, codes=codes)
    after = _weighted_error(format, w, importance, refitted, codes)
    expect(after <= REFIT * before, f"{format.name}: fitted to its own codes the error grows from {before} to {after}")
    if start.arrays:
        double = format.fit(2.0 * w, importance=importance, codes=codes)
        same = torch.equal(format.decode(codes, double), 2.0 * format.decode(codes, refitted))
        expect(same, f"{format.name}: at fixed codes, parameters do not follow the numbers")


def _check_importance(format: Format) -> None:
    """More weight on some columns never makes their error larger; the scale of the weights means nothing."""
    w = normal(4 * ROWS, _columns(format), 5)
    columns = torch.where(torch.arange(w.shape[1]) % 5 == 0, 30.0, 0.3)
    plain, weighted = format.fit(w, importance=torch.ones_like(columns)), format.fit(w, importance=columns)
    for other in (columns.expand_as(w), 4.0 * columns):
        same = format.fit(w, importance=other)
        expect(
            all(torch.equal(same[name], array) for name, array in weighted.arrays.items()),
            f"{format.name}: equal importance in another form gives other parameters",
        )
    every = columns.expand_as(w)
    errors = [_weighted_error(format, w, every, params, format.encode(w, params)) for params in (weighted, plain)]
    expect(errors[0] <= errors[1], f"{format.name}: importance makes the weighted error larger: {errors}")
