"""The codes of one matrix, chosen twice: by the method, and plainly, so that a guard can put the plain ones back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import Bytes
from fewbits.encoding import Encoded, encode_in_torch, encode_slab, joined, rows_together
from fewbits.formats import Fields
from fewbits.kernels.stored import stored_numbers
from fewbits.methods import Method, get
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch

ROWS = 256
"""Rows that are solved together: the same for any number of threads."""

MEASURED = 128
"""Rows of a matrix, at most and evenly spread, on which the error of its outputs is measured."""

KINDS = ("solved", "plain")
"""The method's codes, and the nearest ones weighed by the diagonal of the Hessian."""


@dataclass(frozen=True)
class Solved:
    """The stored fields of one matrix and the numbers (rows, cols) they stand for, of both kinds."""

    fields: Mapping[str, Fields]
    numbers: Mapping[str, torch.Tensor]
    energies: Mapping[str, float]
    """tr(E H E^T) by kind, and under "" tr(W H W^T): what errors, and the matrix, make of outputs, of some rows."""
    remarks: tuple[str, ...]


def solve(
    w: torch.Tensor,
    planned: PlannedTensor,
    method: Method,
    stats: Mapping[str, Any],
    workers: Workers,
    beside: Sequence[torch.Tensor] = (),
) -> Solved:
    """Codes for `w` (rows, cols) float32, slab by slab of rows, which do not influence each other.

    What all rows share is that of `beside` too.
    """
    format = formats.get(planned.format)
    shared = format.prepare([w, *beside]) if format.rows != 1 else None
    importance = stats["importance"].numpy()
    step = max(rows_together(format, w.shape[1]), ROWS)
    starts = range(0, len(w), step)

    def run(start: int) -> tuple[dict[str, Encoded], tuple[str, ...]]:
        rows = w[start : start + step]
        stop = start + len(rows)
        slab: Bytes = rows.contiguous().numpy().view(np.uint8)
        like = shared.slice(start, stop) if shared else None
        plain = encode_slab(get("nearest"), planned, "F32", slab, importance, like)
        solved, remarks = encode_in_torch(method, format, "F32", slab, stats, like)
        return {"solved": solved, "plain": plain}, remarks

    done = [(start, *result) for start, result in workers.in_order(run, starts)]
    fields = {kind: joined([each[kind].part(start) for start, each, _ in done]) for kind in KINDS}
    numbers = {kind: stored_numbers(format, fields[kind], (w.shape[0], w.shape[1])) for kind in KINDS}
    remarks = tuple(dict.fromkeys(remark for *_, found in done for remark in found))
    return Solved(fields, numbers, _energies(w, numbers, stats["hessian"], workers), remarks)


def relative_errors(energies: Mapping[str, float]) -> dict[str, float]:
    """By kind sqrt(tr(E H E^T) / tr(W H W^T)): the relative error of a matrix's outputs on the calibration text.

    >>> relative_errors({"": 4.0, "plain": 1.0})
    {'plain': 0.5}
    """
    whole = energies[""]
    return {kind: sqrt(max(e, 0.0) / whole) if whole > 0 else 0.0 for kind, e in energies.items() if kind}


def _energies(
    w: torch.Tensor, numbers: Mapping[str, torch.Tensor], hessian: torch.Tensor, workers: Workers
) -> dict[str, float]:
    """Energies of at most MEASURED rows: all of them would take as long as choosing their codes."""
    chosen = np.arange(min(len(w), MEASURED)) * len(w) // min(len(w), MEASURED)
    rows = {"": w[chosen], **{kind: w[chosen] - found[chosen] for kind, found in numbers.items()}}

    def run(kind: str) -> float:
        return float(((rows[kind] @ hessian) * rows[kind]).sum())

    return dict(workers.in_order(run, rows))
