"""Codes of constants: weights with 8 bits, one scale per output or for all, and biases with 32 bits at the scale that
sums of products have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits import formats
from fewbits.errors import CheckpointError
from fewbits.kernels.fields import encode_fields
from fewbits.onnx_activations.graph import Array, Floats

MOST = 127
"""The largest code of a weight; -128 is left out, so that codes are as far from 0 on both sides."""
BIAS_MOST = 2.0**30
"""The largest code of a bias: half of what 32 bits hold, as products are added to it."""
PAIR_MOST = 126
"""The largest sum of two neighbouring codes before they are rounded: 128, less what rounding adds."""
ROWS, TENSOR = "int8_row_sym", "int8_tensor_sym"
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Weight:
    """A constant as codes in its own shape: w ~ scale * code, a scale per index of side `axis`, or one."""

    codes: Codes
    scale: Floats
    axis: int
    error: float
    """sum (w - stored)^2 and"""
    size: float
    """sum w^2."""

    @property
    def decoded(self) -> Floats:
        """The stored numbers."""
        decoded: Floats = self.codes.astype(np.float32) * _spread(self.scale, self.axis, self.codes.ndim)
        return decoded


def as_rows(array: Array, axis: int) -> Floats:
    """A constant as a matrix whose rows are its outputs, which lie along side `axis`."""
    return np.ascontiguousarray(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1), np.float32)


def encode_weight(array: Array, axis: int, format_name: str, floor: Floats | None = None) -> Weight:
    """Codes of `array`; no output's scale is below `floor` (outputs,), which its bias asks for.

    Raises CheckpointError where the constant holds numbers that are none.
    """
    rows = as_rows(array, axis)
    if not np.isfinite(rows).all():
        raise CheckpointError("a matrix holds NaN or infinite numbers; the model is damaged.")
    fields = encode_fields(formats.get(format_name), rows.view(np.uint8), "F32").fields
    codes = fields["codes"].view(np.int8).reshape(rows.shape)
    scale = fields["scale"].astype(np.float32).reshape(-1)
    scale = np.where(scale > 0, scale, np.float32(1.0))
    if floor is not None:
        low = floor if len(scale) > 1 else floor.max(keepdims=True)
        raised = np.maximum(scale, low.astype(np.float32))
        if (raised > scale).any():
            scale = raised
            codes = np.clip(np.rint(rows / scale[:, None]), -MOST, MOST).astype(np.int8)
    stored = codes.astype(np.float32) * scale[:, None]
    error, size = np.square(rows - stored, dtype=np.float64).sum(), np.square(rows, dtype=np.float64).sum()
    moved = [array.shape[axis], *(side for place, side in enumerate(array.shape) if place != axis)]
    turned = np.ascontiguousarray(np.moveaxis(codes.reshape(moved), 0, axis))
    return Weight(turned, scale, axis, float(error), float(size))


def scale_floor(bias: Array, input_scale: float) -> Floats:
    """The smallest weight scales (outputs,) at which 32 bits hold `bias`."""
    return (np.abs(bias.reshape(-1).astype(np.float64)) / (BIAS_MOST * input_scale)).astype(np.float32)


def pair_floor(array: Array, axis: int) -> Floats:
    """The smallest scales (outputs,) at which no two neighbours of a row add up to more than a code of 16 bits holds.

    x86's VPMADDUBSW adds two products of an unsigned and a signed byte and cuts the sum off at 16 bits: 255 * (a + b)
    stays within where |a + b| <= 128. ONNX Runtime multiplies with it where a processor has no VNNI; a whole bit of
    every weight is the usual price. Neighbours are those of the matrix, and of a filter also those of one place in
    the channels beside each other, as kernels that have channels last lay them out.
    """
    rows = as_rows(array, axis)
    orders = [rows]
    if array.ndim > 2 and axis == 0:
        orders.append(np.ascontiguousarray(np.moveaxis(array, 1, -1)).reshape(len(rows), -1).astype(np.float32))
    largest = np.zeros(len(rows), np.float32)
    for each in orders:
        whole = each[:, : each.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
        if whole.shape[1]:
            largest = np.maximum(largest, np.abs(whole.sum(2)).max(1))
    return (largest / PAIR_MOST).astype(np.float32)


def encode_bias(bias: Array, scale: Floats, input_scale: float) -> tuple[npt.NDArray[np.int32], Floats]:
    """Codes (outputs,) of a bias and their scales, the products of the two scales, in float32 as readers multiply."""
    product = (scale * np.float32(input_scale)).astype(np.float32)
    codes = np.rint(bias.reshape(-1).astype(np.float64) / product.astype(np.float64))
    return codes.astype(np.int32), np.broadcast_to(product, codes.shape).copy() if len(product) > 1 else product


def _spread(scale: Floats, axis: int, sides: int) -> Any:
    """Scales beside the codes that they belong to."""
    return scale.reshape([-1 if side == axis else 1 for side in range(sides)]) if len(scale) > 1 else scale
