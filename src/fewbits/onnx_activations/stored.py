"""What the record says of the constants of products."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from fewbits.onnx_activations.numbers import ROWS, Weight
from fewbits.reporting.record import PlannedTensor, TensorResult

METHOD = "nearest"


def planned_tensor(name: str, shape: tuple[int, int], format_name: str, kept: str | None) -> PlannedTensor:
    """The decision for the constant `name`, (rows, cols) with outputs as rows; `kept` says why it stays in floats."""
    rows, cols = shape
    scales = rows if format_name == ROWS else 1
    return PlannedTensor(
        name=name,
        source_name=name,
        shape=(rows, cols),
        source_format="F32",
        format="F32" if kept else format_name,
        method=METHOD,
        nominal=not kept and format_name == ROWS,
        quantizable=True,
        fallback=kept,
        bytes_in=4 * rows * cols,
        bytes_out=4 * rows * cols if kept else rows * cols + 5 * scales,
    )


def result_of(planned: PlannedTensor, weight: Weight) -> TensorResult:
    """The same with the error that its codes have."""
    error = sqrt(weight.error / weight.size) if weight.size and planned.format != "F32" else 0.0
    return TensorResult(planned, error)


def empty_weight(dims: tuple[int, ...], axis: int, format_name: str) -> Weight:
    """A constant whose codes are not known yet, without the memory for them."""
    outputs = dims[axis] if format_name == ROWS else 1
    return Weight(np.broadcast_to(np.int8(0), dims), np.ones(outputs, np.float32), axis, 0.0, float(prod(dims)))


def matrix_shape(dims: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(rows, cols) of a constant whose outputs lie along side `axis`."""
    return dims[axis], prod(dims) // dims[axis]
