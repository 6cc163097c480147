"""Solved tensors as the pipeline writes them: stored fields out of the workspace, measured against the source."""

from __future__ import annotations

import numpy as np

from fewbits import formats, kernels
from fewbits.calibrated.run import Outcome
from fewbits.calibrated.workspace import Workspace
from fewbits.checkpoints.base import Placement
from fewbits.encoding import Encoded
from fewbits.formats import Fields, Format
from fewbits.formats.base import is_row_format
from fewbits.kernels.stored import stored_numbers
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import row_slabs


def encoded(work: Workspace, outcome: Outcome, planned: PlannedTensor, placement: Placement) -> Encoded:
    """The whole tensor `planned`, whose fields lie in the workspace, and its errors against the rows of its source."""
    layer, kind = outcome.chosen[planned.name]
    fields, format, source = work.fields(layer, kind, planned.name), formats.get(planned.format), placement.source
    errors, squares, largest, not_finite = [], [], 0.0, 0
    for start, stop, numbers in _slabs(format, fields, source.rows, source.cols):
        slab = placement.slab(start, stop)
        error, square = kernels.deviation(slab, source.format, numbers)
        most, odd = kernels.extent(slab, source.format)
        errors.append(error)
        squares.append(square)
        largest, not_finite = max(largest, most), not_finite + odd
    return Encoded(fields, np.concatenate(errors), np.concatenate(squares), largest, not_finite)


def _slabs(format: Format, fields: Fields, rows: int, cols: int) -> list[tuple[int, int, kernels.Floats]]:
    """Row ranges with their numbers: slab by slab where rows are strings of bytes, else all at once."""
    if is_row_format(format):
        ranges = row_slabs(rows, 4 * cols)
        return [(a, b, stored_numbers(format, {"data": fields["data"][a:b]}, (b - a, cols)).numpy()) for a, b in ranges]
    return [(0, rows, stored_numbers(format, fields, (rows, cols)).numpy())]
