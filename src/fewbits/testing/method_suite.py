"""What every method must do, on any format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.formats import FORMATS
from fewbits.formats.base import Fields, Format
from fewbits.lazy import LazyModule
from fewbits.methods.base import Method
from fewbits.methods.nearest import Nearest
from fewbits.qtensor import QTensor
from fewbits.testing.expect import expect
from fewbits.testing.inputs import matrices, normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Statistics = Mapping[str, Any]
Objective = Callable[["torch.Tensor", QTensor, Statistics], float]
ROWS, SPANS = 5, 3


def squared_error(w: torch.Tensor, q: QTensor, stats: Statistics) -> float:
    """Sum of squared errors over all elements of `w` (rows, cols): the objective of a method without statistics."""
    return float((w.double() - q.dequantize().double()).square().sum())


def check_method(
    method: Method,
    *,
    formats: Iterable[Format] | None = None,
    stats: Callable[[int], Statistics] = lambda cols: {},
    objective: Objective = squared_error,
) -> None:
    """Run every law of methods on `method` over `formats` (None: all that are registered).

    `stats` makes the statistics that the method needs for a number of columns; `objective` is what the method makes
    small, over all of w. Raises AssertionError naming the format and the law.
    """
    for format in formats if formats is not None else [FORMATS.get(name) for name in FORMATS]:
        cols = SPANS * max(format.span, 16)
        given = stats(cols)
        missing = method.needs - set(given)
        expect(not missing, f"{method.name} needs the statistics {sorted(missing)}; give them to check_method")
        w = torch.cat(list(matrices(ROWS, cols, format.largest).values()))
        fields = _check_solution(method, format, w, given)
        _check_rows(method, format, w, given, fields)
        _check_objective(method, format, normal(4 * ROWS, cols, 6) ** 3, given, objective)


def check_not_nearest(
    method: Method, format: Format, w: torch.Tensor, stats: Statistics, *, objective: Objective, at_most: float
) -> None:
    """Raise AssertionError unless `method` gives other bytes than nearest, and an objective of `at_most` times its.

    Where the method reads a Hessian, the codes themselves have to be others. Nearest gets `stats` too.
    """
    where = f"{method.name} on {format.name}"
    found, plain = method.solve(w, format, stats), Nearest().solve(w, format, stats)
    fields, others = found.fields(), plain.fields()
    same = torch.equal(found.codes, plain.codes) if "hessian" in method.needs else _equal(fields, others)
    expect(not same, f"{where}: this is what nearest gives")
    cost, of_nearest = objective(w, found, stats), objective(w, plain, stats)
    expect(cost <= at_most * of_nearest, f"{where}: the objective is {cost}, and {of_nearest} by nearest")


def _equal(fields: Fields, others: Fields) -> bool:
    return all(np.array_equal(field, others[name]) for name, field in fields.items())


def _check_solution(method: Method, format: Format, w: torch.Tensor, stats: Statistics) -> Fields:
    """The bytes: codes of the format in the shape of the input, which stays as it is; they survive storage."""
    where, before = f"{method.name} on {format.name}", w.clone()
    q = method.solve(w, format, stats)
    expect(torch.equal(w, before), f"{where}: the input was changed")
    expect(q.format is format and q.shape == tuple(w.shape), f"{where}: the result has another format or shape")
    stored = QTensor.from_fields(format, q.fields(), q.shape)
    expect(torch.equal(stored.codes, q.codes), f"{where}: codes do not survive storage")
    expect(torch.equal(stored.dequantize(), q.dequantize()), f"{where}: numbers do not survive storage")
    expect(bool(q.dequantize().isfinite().all()), f"{where}: what comes back is no number")
    return q.fields()


def _check_objective(method: Method, format: Format, w: torch.Tensor, stats: Statistics, objective: Objective) -> None:
    """What a method makes small is never larger than without it: fitted to the weights alone and rounded to nearest."""
    params = format.fit(w)
    plain = objective(w, QTensor(format, format.encode(w, params), params), stats)
    found = objective(w, method.solve(w, format, stats), stats)
    expect(found <= plain, f"{method.name} on {format.name}: the objective is {found}, and {plain} without the method")


def _check_rows(method: Method, format: Format, w: torch.Tensor, stats: Statistics, fields: Fields) -> None:
    """Rows do not influence each other: another order of rows, or slabs of them, gives the same bytes per row."""
    if format.rows != 1:
        return
    order = (np.arange(len(w)) * 7 + 3) % len(w)
    for rows in (order, slice(0, 1), slice(1, 8), slice(8, len(w))):
        part = method.solve(w[rows], format, stats).fields()
        same = all(np.array_equal(part[name], field[rows]) for name, field in fields.items())
        expect(same, f"{method.name} on {format.name}: rows {rows} alone get other bytes than among others")
