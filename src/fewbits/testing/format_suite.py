"""What every format must do, whatever its equation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.errors import FormatError
from fewbits.formats import bits, row_bytes
from fewbits.formats.base import Format, Params
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.grid_laws import check_columns, check_error_bound, check_half_step, check_nearest, check_reachable_codes
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
    for name, w in matrices(ROWS, _columns(format), format.largest).items():
        where = f"{format.name} on {name} numbers"
        params, codes = _check_encoding(format, w, where)
        check_nearest(format, w, params, codes, where)
        check_half_step(format, w, params, where)
        check_reachable_codes(format, w, params, where)
        check_columns(format, w, params, codes, where)
        check_error_bound(format, w, format.decode(codes, params), where)
        _check_bytes(format, params, codes, where)
        _check_rows(format, w, params, codes, where)
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
    expect(torch.equal(codes, format.encode(w, format.fit(w))), f"{where}: a second run gives other codes")
    again = format.decode(format.encode(back, params), params)
    expect(torch.equal(again, back), f"{where}: encoding is not idempotent")
    if not bool(w.any()):
        expect(not bool(back.any()), f"{where}: zero does not come back")
    return params, codes


def _check_bytes(format: Format, params: Params, codes: torch.Tensor, where: str) -> None:
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


def _check_rows(format: Format, w: torch.Tensor, params: Params, codes: torch.Tensor, where: str) -> None:
    """Rows do not influence each other: any slab, any order, any number of them."""
    if format.rows != 1:
        return
    packed = format.pack(codes, params)
    order = torch.tensor([3, 0, 4, 1, 2])
    for rows in (slice(0, 1), slice(1, 3), slice(2, ROWS), order):
        part = w[rows]
        fitted = format.fit(part)
        expect(
            bool((format.pack(format.encode(part, fitted), fitted) == packed[rows]).all()),
            f"{where}: rows {rows} alone get other bytes than among others",
        )
    joined = Params.join([params.slice(0, 2), params.slice(2, ROWS)])
    expect(torch.equal(format.encode(w, joined), codes), f"{where}: joined slabs of parameters give other codes")
    start = format.span
    wide = format.encode(w[:, start:], format.fit(w[:, start:]))
    expect(torch.equal(wide, codes[:, start:]), f"{where}: a span depends on the one before it")


def _weighted_error(format: Format, w: torch.Tensor, importance: torch.Tensor, params: Params, codes: torch.Tensor) -> float:
    r = format.decode(codes, params).double() - w.double()
    return float((importance.double() * r * r).sum())


def _check_refit(format: Format) -> None:
    """Least squares at given codes: never much worse than the parameters that chose them, and far better than wrong ones."""
    w = normal(ROWS, _columns(format), 3)
    importance = 0.1 + normal(ROWS, _columns(format), 4).abs()
    start = format.fit(w, importance=importance)
    codes = format.encode(w, start)
    before = _weighted_error(format, w, importance, start, codes)
    after = _weighted_error(format, w, importance, format.fit(w, importance=importance, codes=codes), codes)
    expect(after <= REFIT * before, f"{format.name}: fitted to its own codes the error grows from {before} to {after}")
    if start.arrays:
        double = format.fit(2.0 * w, importance=importance, codes=codes)
        expect_equal(
            torch.equal(format.decode(codes, double), 2.0 * format.decode(codes, format.fit(w, importance=importance, codes=codes))),
            True,
            f"{format.name}: at fixed codes, parameters do not follow the numbers",
        )


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
    errors = [
        _weighted_error(format, w, columns.expand_as(w), params, format.encode(w, params)) for params in (weighted, plain)
    ]
    expect(errors[0] <= errors[1], f"{format.name}: importance makes the weighted error larger: {errors}")
