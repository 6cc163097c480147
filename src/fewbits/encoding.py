"""One slab of rows in, its stored fields out: natively where that is all the method does, else in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import formats, kernels
from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.checkpoints.imatrix import Importance
from fewbits.errors import CheckpointError
from fewbits.formats import Fields, Format, Params
from fewbits.kernels.fields import encode_fields, has_fields_codec
from fewbits.methods import Method
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import row_slabs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Encoded:
    """What is stored of a slab, and per row the sums over w of (w - stored)^2 and w^2."""

    fields: Fields
    squared_error: kernels.Doubles
    squared: kernels.Doubles
    largest: float
    """The largest magnitude among finite numbers."""
    not_finite: int
    whole: frozenset[str] = frozenset()
    """Fields that belong to the whole tensor, the same in every slab."""

    def part(self, first_row: int) -> Fields:
        """What to write for rows from `first_row` on: what belongs to the whole tensor comes with row 0."""
        return {name: field for name, field in self.fields.items() if first_row == 0 or name not in self.whole}


def joined(parts: Sequence[Fields]) -> Fields:
    """Slabs of rows put together; what belongs to the whole tensor came with the first."""
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in parts[0]}


def is_native(method: Method, tensor: PlannedTensor) -> bool:
    """Whether a native codec does everything, so that torch is not needed."""
    return tensor.format in kernels.formats() and (method.codec_is_enough or not tensor.quantizable)


def encode_slab(
    method: Method,
    tensor: PlannedTensor,
    numbers: str,
    slab: Bytes,
    importance: kernels.Floats | None = None,
    shared: Params | None = None,
) -> Encoded:
    """Encode `slab` (rows, bytes of `numbers`) of `tensor`.

    `importance` (cols,) weighs errors where it is given; `shared` is this slab's part of what `shared_parameters` made.
    """
    format = formats.get(tensor.format)
    cols = slab.shape[1] // kernels.NUMBERS[numbers]
    if is_native(method, tensor):
        row_bytes = formats.row_bytes(format, cols)
        done = kernels.encode_rows(format.name, slab, numbers, row_bytes, importance=importance)
        return Encoded({"data": done.stored}, done.squared_error, done.squared, done.largest, done.not_finite)
    if method.codec_is_enough and has_fields_codec(format):
        made = encode_fields(format, slab, numbers, like=shared, importance=importance)
        whole = _whole(shared) if shared else frozenset()
        return Encoded(made.fields, made.squared_error, made.squared, made.largest, made.not_finite, whole)
    import torch

    stats: Mapping[str, Any] = {} if importance is None else {"importance": torch.from_numpy(importance)}
    return encode_in_torch(method, format, numbers, slab, stats, shared)[0]


def _whole(params: Params) -> frozenset[str]:
    """Fields that belong to the whole tensor are those parameters of which one line serves all rows."""
    return frozenset(name for name, rows in params.rows.items() if rows == 0)


def encode_in_torch(
    method: Method, format: Format, numbers: str, slab: Bytes, stats: Mapping[str, Any], shared: Params | None
) -> tuple[Encoded, tuple[str, ...]]:
    """Encode `slab` by `method.solve` with `stats`; also what the method remarked."""
    q = method.solve(as_tensor(numbers, slab), format, stats, like=shared)
    largest, not_finite = kernels.extent(slab, numbers)
    error, square = kernels.deviation(slab, numbers, q.dequantize().numpy())
    return Encoded(q.fields(), error, square, largest, not_finite, _whole(q.params)), q.remarks


def require_representable(source: StoredTensor, tensor: PlannedTensor, encoded: Encoded) -> None:
    """Refuse NaN, infinity, and numbers beyond the format's range, naming the tensor and how many there are."""
    if encoded.not_finite:
        count = sum(
            kernels.extent(source.slab(a, b), source.format)[1] for a, b in row_slabs(source.rows, source.row_bytes)
        )
        raise CheckpointError(
            f"tensor {source.name} of the source holds {count} NaN or infinite numbers; "
            "the checkpoint is damaged or was trained to divergence: repair or replace it."
        )
    limit = formats.get(tensor.format).largest
    if encoded.largest > limit:
        raise CheckpointError(
            f"tensor {source.name} of the source holds {encoded.largest:.6g}, beyond {limit:.6g}, the largest number "
            f"of {tensor.format}; choose another recipe, BF16 for instance."
        )


def as_tensor(numbers: str, slab: Bytes) -> torch.Tensor:
    """The numbers (rows, cols) float32 of a slab of `numbers`."""
    import torch

    return torch.from_numpy(kernels.decode_rows(numbers, slab, slab.shape[1] // kernels.NUMBERS[numbers]))


def shared_parameters(format: Format, *sources: StoredTensor) -> Params | None:
    """What all rows of `sources` share in `format`, from one pass over slabs; None where rows share nothing."""
    if format.rows == 1:
        return None
    slabs = ((source, *slab) for source in sources for slab in row_slabs(source.rows, source.row_bytes))
    return format.prepare(as_tensor(source.format, source.slab(start, stop)) for source, start, stop in slabs)


def slabs(source: StoredTensor, format: Format, importance: Importance | None) -> Iterator[tuple[int, int]]:
    """Row ranges of `source`; with importance none reaches into a second matrix."""
    height = source.rows // (importance.matrices if importance else 1)
    for first in range(0, source.rows, max(1, height)):
        for start, stop in row_slabs(height, source.row_bytes, together=rows_together(format, source.cols)):
            yield first + start, first + stop


def rows_together(format: Format, cols: int) -> int:
    """The fewest rows whose fields can be written apart: those of a tile, or of 256 scales that share a number.

    >>> [rows_together(formats.get(name), 320) for name in ("Q8_0", "fp8_e4m3_tile32", "nf4_g64_dq")]
    [1, 32, 256]
    """
    rows, most = max(format.rows, 1), 256
    while any(
        _lines(format, rows * most, cols)[field] not in (lines, lines * most)
        for field, lines in _lines(format, rows, cols).items()
    ):
        rows *= 2
    return rows


def _lines(format: Format, rows: int, cols: int) -> dict[str, int]:
    return {field: shape[0] for field, (_, shape) in format.shapes(rows, cols).items()}
