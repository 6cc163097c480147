"""What native error feedback must do: the codes, errors and misses of columns taken one by one, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fewbits import kernels
from fewbits.formats.base import Format, Params
from fewbits.formats.overrides import Feedback
from fewbits.kernels.feedback import round_columns
from fewbits.lazy import LazyModule
from fewbits.testing.expect import expect
from fewbits.testing.inputs import matrices, normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

COLUMNS = (1, 2, 3, 5, 7, 15, 17, 33)
"""Numbers of vectors that leave every kind of tail; rows do as well."""


def check_feedback(format: Format) -> None:
    """Compare native sweeps over the grids of `format` with columns taken one by one, on every instruction set here.

    Raises AssertionError naming the instruction set and the input that tells them apart.
    """
    for name, w, params, cols in _inputs(format):
        where = f"{format.name} on {name} numbers, columns {cols.start} to {cols.stop}"
        wanted = _feedback(w[:, cols], format.vector)
        codes = _one_by_one(format, params, cols, wanted)
        for isa in kernels.available():
            found = _feedback(w[:, cols], format.vector)
            native = round_columns(format.grid(params, cols), found, isa=isa)
            expect(native is not None, f"{format.name}: no kernel knows its grid")
            assert native is not None
            different = int((native != codes).sum())
            expect(different == 0, f"{where}: {isa} chooses {different} of {codes.numel()} codes that torch does not")
            expect(torch.equal(found.errors, wanted.errors), f"{where}: {isa} leaves other errors than torch")
            expect(torch.equal(found.target, wanted.target), f"{where}: {isa} misses targets otherwise than torch")


def _inputs(format: Format) -> Iterator[tuple[str, torch.Tensor, Params, slice]]:
    """(what it is, matrix, parameters, columns): hard matrices, and every tail of rows and columns."""
    span = format.span or 12 * format.vector
    cols = span * -(-max(COLUMNS) * format.vector // span)
    for name, w in matrices(5, span * -(-40 // span), format.largest).items():
        yield name, w, format.fit(w), slice(0, 40 // format.vector * format.vector)
    for count in COLUMNS:
        w = normal(count, cols, count) ** 3
        yield "heavy-tailed", w, format.fit(w), slice(cols - count * format.vector, cols)


def _feedback(w: torch.Tensor, vector: int) -> Feedback:
    """Targets beside the weights, and errors that count for less the longer ago they were made."""
    cols = w.shape[1]
    upper = normal(cols, cols, 21).double().triu(1) * 0.5 ** torch.arange(cols).double()[None].sub(1).clamp(0, 6)
    for at in range(0, cols, vector):
        upper[at : at + vector, at : at + vector] = 0.0
    target = w.double() + 1e-3 * w.double() * normal(len(w), cols, 22).double()
    weight = normal(1, cols, 23)[0].square() + 0.1
    return Feedback(w, target, upper, torch.full_like(target, torch.nan), weight)


def _one_by_one(format: Format, params: Params, cols: slice, feedback: Feedback) -> torch.Tensor:
    codes = []
    for at in range(cols.start, cols.stop, format.vector):
        here = slice(at - cols.start, at - cols.start + format.vector)
        for k in range(here.start, here.stop):
            for i in range(here.start):
                feedback.target[:, k] += feedback.errors[:, i] * feedback.upper[i, k]
        grid = format.grid(params, slice(at, at + format.vector))
        x = feedback.target[:, here].float().contiguous()
        weigh = () if format.vector == 1 else (feedback.weight[here].expand_as(x),)
        codes.append(grid.nearest(x, *weigh))
        value = grid.value(codes[-1]).double()
        feedback.errors[:, here] = feedback.w[:, here].double() - value
        feedback.target[:, here] -= value
    return torch.cat(codes, 1)
