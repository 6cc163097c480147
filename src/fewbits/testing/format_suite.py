"""What every format must do, whatever its equation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats import bits, is_row_format, row_bytes
from fewbits.formats.base import Fields, Format, Params, RowFormat
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
from fewbits.testing.vector_laws import check_vectors

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
        if format.vector > 1:
            check_vectors(format, w, params, where)
        else:
            check_nearest(format, w, params, codes, where)
            check_half_step(format, w, params, where)
            check_reachable_codes(format, w, params, where)
            check_columns(format, w, params, codes, where)
        check_error_bound(format, w, format.decode(codes, params), where)
        stored.append(_check_storage(format, params, codes, w.shape[1], where))
    together = {name: np.concatenate([fields[name] for fields in stored]) for name in stored[0]}
    _check_rows(format, torch.cat(list(hard.values())), together)
    _check_shared(format)
    _check_refit(format)
    _check_importance(format)


def _columns(format: Format) -> int:
    return SPANS * max(format.span, 11)


def _check_words(format: Format) -> None:
    for word in ("name", "equation", "layout", "source"):
        expect(bool(getattr(format, word).strip()), f"{format.name} does not state its {word}")
    expect(format.span >= 0 and format.rows >= 0 and format.vector >= 1, f"{format.name} has an impossible span")
    expect(format.largest > 0, f"{format.name} can hold no number")
    # Where signs are given up for the vector's sake, a number can come back on the other side of zero.
    expect(0 <= format.error_bound <= (1 if format.vector == 1 else 2), f"{format.name} bounds no error")
    expect(0 <= format.error_floor < 1, f"{format.name} has an impossible error floor")


def _check_widths(format: Format) -> None:
    if is_row_format(format):
        _check_row_bytes(format)
    if format.span > 1:
        try:
            bits(format, 1, format.span + 1)
        except FormatError:
            return
        raise AssertionError(f"{format.name} accepts a width that its span does not divide")


def _check_row_bytes(format: RowFormat) -> None:
    for count in (1, 2, 7):
        expect_equal(row_bytes(format, count * format.span), count * format.span_bytes, f"{format.name}: bytes per row")


def _check_encoding(format: Format, w: torch.Tensor, where: str) -> tuple[Params, torch.Tensor]:
    """Fit and encode; the input stays as it is, codes repeat, and what came back once comes back again."""
    before = w.clone()
    params = format.fit(w)
    codes = format.encode(w, params)
    wanted = (len(w), w.shape[1] // format.vector)
    expect(codes.shape == wanted, f"{where}: codes have the shape {tuple(codes.shape)}")
    expect(torch.equal(w, before), f"{where}: the input was changed")
    back = format.decode(codes, params)
    expect(back.dtype == torch.float32 and bool(back.isfinite().all()), f"{where}: what comes back is no number")
    again = format.decode(format.encode(back, params), params)
    expect(torch.equal(again, back), f"{where}: encoding is not idempotent")
    if not bool(w.any()):
        expect(not bool(back.any()), f"{where}: zero does not come back")
    return params, codes


def _check_storage(format: Format, params: Params, codes: torch.Tensor, cols: int, where: str) -> Fields:
    """The fields on disk, which hold exactly what was stored, in as many bits as the format states."""
    rows = len(codes)
    fields = format.fields(codes, params)
    expect_equal(8 * sum(field.nbytes for field in fields.values()), bits(format, rows, cols), f"{where}: bits")
    if is_row_format(format):
        packed, size = format.pack(codes, params), row_bytes(format, cols)
        expect(packed.dtype == "uint8" and packed.shape == (rows, size), f"{where}: wrong bytes per row")
        same = set(fields) == {"data"} and np.array_equal(fields["data"], packed)
        expect(same, f"{where}: what is packed does not survive packing as a field")
    unpacked, read = format.from_fields(fields, (rows, cols))
    expect(torch.equal(unpacked, codes), f"{where}: codes do not survive packing")
    for name, array in params.arrays.items():
        expect(torch.equal(read[name], array), f"{where}: parameter {name} does not survive packing")
    expect(set(read.arrays) == set(params.arrays), f"{where}: other parameters come back than were packed")
    expect(read.rows == params.rows, f"{where}: parameters that come back serve other rows")
    expect(same_fields(format.fields(unpacked, read), fields), f"{where}: packing again gives other bytes")
    return fields


def same_fields(one: Fields, other: Fields) -> bool:
    """Whether two matrices are stored in the same bytes."""
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def _check_rows(format: Format, w: torch.Tensor, stored: Fields) -> None:
    """Rows and spans do not influence each other: `stored` was made of a few rows at a time, this is all at once."""
    if format.rows != 1:
        return
    params = format.fit(w)
    codes = format.encode(w, params)
    expect(same_fields(format.fields(codes, params), stored), f"{format.name}: a row depends on the number of rows")
    order = (torch.arange(len(w)) * 7 + 3) % len(w)
    fitted = format.fit(w[order])
    found = format.fields(format.encode(w[order], fitted), fitted)
    same = same_fields(found, {name: field[order.numpy()] for name, field in stored.items()})
    expect(same, f"{format.name}: a row depends on the rows around it")
    for row in (0, len(w) - 1):
        fitted = format.fit(w[row : row + 1])
        same = torch.equal(format.encode(w[row : row + 1], fitted), codes[row : row + 1])
        expect(same, f"{format.name}: row {row} alone gets other codes than among others")
    joined = Params.join([params.slice(0, 2), params.slice(2, len(w))])
    expect(torch.equal(format.encode(w, joined), codes), f"{format.name}: joined slabs of parameters give other codes")
    later = w[:, format.span :] if format.span else w
    same = torch.equal(format.encode(later, format.fit(later)), codes[:, -(later.shape[1] // format.vector) :])
    expect(same, f"{format.name}: a span depends on the one before it")


def _check_shared(format: Format) -> None:
    """What rows share is the same wherever slabs are cut, and slabs that share it are the whole, row by row."""
    w = normal(4 * max(format.rows, 3), _columns(format), 7) ** 3
    shared = format.prepare([w])
    cuts = [0, max(format.rows, 1), 3 * max(format.rows, 1), len(w)]
    slabs = [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    again = format.prepare(w[slab] for slab in slabs)
    if shared is None or again is None:
        expect(shared is None and again is None, f"{format.name}: whether rows share anything depends on the slabs")
    else:
        same = all(torch.equal(again[name], array) for name, array in shared.arrays.items())
        expect(same, f"{format.name}: what rows share depends on where slabs are cut")
    whole = format.fit(w)
    parts = [format.fit(w[s], like=shared and shared.slice(s.start, s.stop)) for s in slabs]
    joined = Params.join(parts)
    for name, array in whole.arrays.items():
        expect(torch.equal(joined[name], array), f"{format.name}: slabs that share their parameters get others")
    codes = torch.cat([format.encode(w[s], part) for s, part in zip(slabs, parts, strict=True)])
    expect(torch.equal(codes, format.encode(w, whole)), f"{format.name}: slabs that share their parameters differ")


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
    codes = format.encode(w, start, importance=importance)
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
    errors = [
        _weighted_error(format, w, columns.expand_as(w), params, format.encode(w, params, importance=importance))
        for params, importance in ((weighted, columns), (plain, torch.ones_like(columns)))
    ]
    expect(errors[0] <= errors[1], f"{format.name}: importance makes the weighted error larger: {errors}")
