"""Solved tensors as the pipeline writes them: stored fields out of the workspace, measured against the source."""

from __future__ import annotations

import numpy as np

from fewbits import formats, kernels, methods
from fewbits.calibrated.run import Outcome
from fewbits.calibrated.scaling import Scaling, kept_scaling
from fewbits.calibrated.workspace import Workspace
from fewbits.checkpoints.base import Bytes, Placement
from fewbits.encoding import Encoded, encode_slab
from fewbits.formats import Fields, Format
from fewbits.formats.base import is_row_format
from fewbits.kernels.stored import stored_numbers
from fewbits.qtensor import outlier_count
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import row_slabs


def encoded(work: Workspace, outcome: Outcome, planned: PlannedTensor, placement: Placement) -> Encoded:
    """The whole tensor `planned` and its errors against the rows of its source, as transforms have scaled them."""
    scaling = scaling_of(work, outcome, planned.name)
    if planned.name not in outcome.chosen:
        assert scaling is not None, "what was neither solved nor scaled is the pipeline's"
        slab = _slab(placement, 0, placement.source.rows, scaling)
        return encode_slab(methods.get("nearest"), planned, "F32", slab)
    layer, kind = outcome.chosen[planned.name]
    fields, format, source = work.fields(layer, kind, planned.name), formats.get(planned.format), placement.source
    errors, squares, largest, not_finite = [], [], 0.0, 0
    for start, stop, numbers in _slabs(format, fields, source.rows, source.cols):
        slab = _slab(placement, start, stop, scaling)
        error, square = kernels.deviation(slab, "F32", numbers)
        most, odd = kernels.extent(slab, "F32")
        errors.append(error)
        squares.append(square)
        largest, not_finite = max(largest, most), not_finite + odd
    return Encoded(fields, np.concatenate(errors), np.concatenate(squares), largest, not_finite)


def outliers(work: Workspace, outcome: Outcome, tensor: str) -> int:
    """How many columns of a tensor stay in 16 bits."""
    if tensor not in outcome.chosen:
        return 0
    return outlier_count(work.fields(*outcome.chosen[tensor], tensor))


def scaling_of(work: Workspace, outcome: Outcome, tensor: str) -> Scaling | None:
    """What transforms have done to a tensor; None where it is as in the source."""
    layer = outcome.scaled.get(tensor)
    return None if layer is None else kept_scaling(work, layer, tensor)


def _slab(placement: Placement, start: int, stop: int, scaling: Scaling | None) -> Bytes:
    """Rows of the target as float32."""
    source = placement.source
    w = kernels.decode_rows(source.format, placement.slab(start, stop), source.cols)
    rows = w if scaling is None else np.ascontiguousarray(scaling.applied(w, start))
    return rows.view(np.uint8)


def _slabs(format: Format, fields: Fields, rows: int, cols: int) -> list[tuple[int, int, kernels.Floats]]:
    """Row ranges with their numbers: slab by slab where rows are strings of bytes, else all at once."""
    if is_row_format(format):
        ranges = row_slabs(rows, 4 * cols)
        return [(a, b, stored_numbers(format, {"data": fields["data"][a:b]}, (b - a, cols)).numpy()) for a, b in ranges]
    return [(0, rows, stored_numbers(format, fields, (rows, cols)).numpy())]
