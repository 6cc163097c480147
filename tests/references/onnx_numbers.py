"""What the nodes of quantized graphs compute, slowly: one number after another, by the operators' specifications.

It imports nothing of fewbits. MatMulNBits: ONNX Runtime's documentation of its contributed operators. DequantizeLinear:
the ONNX specification.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Floats = np.ndarray[Any, Any]


def matmulnbits_weight(
    codes: np.ndarray[Any, Any],
    scales: Floats,
    zeros: np.ndarray[Any, Any] | None,
    rows: int,
    cols: int,
    size: int,
    bits: int,
) -> Floats:
    """The matrix (rows, cols) float32 of the operator's inputs."""
    groups = -(-cols // size)
    data, scale = codes.reshape(rows, groups, -1), scales.reshape(rows, groups)
    found = np.empty((rows, cols), np.float32)
    for row in range(rows):
        for col in range(cols):
            group, place = divmod(col, size)
            byte = int(data[row, group, place * bits // 8])
            code = byte >> (place * bits % 8) & (1 << bits) - 1
            zero = 1 << bits - 1
            if zeros is not None:
                line = zeros.reshape(rows, -1)[row]
                zero = int(line[group * bits // 8]) >> (group * bits % 8) & (1 << bits) - 1
            found[row, col] = np.float32(scale[row, group]) * np.float32(code - zero)
    return found


def dequantized(codes: Floats, scale: Floats, zero: Floats | None, axis: int, size: int) -> Floats:
    """DequantizeLinear, in float32; `size` 0 is no groups."""
    found = np.empty(codes.shape, np.float32)
    for place in np.ndindex(*codes.shape):
        where: tuple[int, ...] = ()
        if size:
            where = tuple(at // size if side == axis % codes.ndim else at for side, at in enumerate(place))
        elif scale.size > 1:
            where = (place[axis],)
        each = scale[where] if scale.ndim else scale
        middle = 0 if zero is None else int((zero[where] if zero.ndim else zero).reshape(()))
        found[place] = np.float32(np.asarray(each).reshape(())) * np.float32(int(codes[place]) - middle)
    return found


class MatMulNBits(OpRun):
    """The operator for onnx.reference, which computes in float32 with the decoded matrix."""

    op_domain = "com.microsoft"

    def _run(self, a, b, scales, zeros=None, *, K=None, N=None, bits=4, block_size=None, **_):
        weight = matmulnbits_weight(b, scales, zeros, N, K, block_size, bits)
        return ((a.astype(np.float32) @ weight.T).astype(a.dtype),)


class GatherBlockQuantized(OpRun):
    """The operator on bytes, which looks up what it has decoded."""

    op_domain = "com.microsoft"

    def _run(self, data, ids, scales, zeros=None, *, bits=4, block_size=128, **_):
        rows, cols = data.shape[0], data.shape[1] * 8 // bits
        table = matmulnbits_weight(data, scales, zeros, rows, cols, block_size, bits)
        return (table.astype(scales.dtype)[ids],)


def run(made: Any, inputs: dict[str, Floats]) -> list[Floats]:
    """The outputs of a model, by the reference of the onnx package."""
    found: list[Floats] = ReferenceEvaluator(made, new_ops=[MatMulNBits, GatherBlockQuantized]).run(None, inputs)
    return found


def matrices(made: Any) -> dict[str, Floats]:
    """Name of codes -> matrix as it is multiplied with (cols, rows), of a graph in either dialect."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    found: dict[str, Floats] = {}
    for node in made.graph.node:
        told = {each.name: each.i for each in node.attribute}
        given = [constants.get(name) for name in node.input]
        if node.op_type == "MatMulNBits":
            sizes = (told["N"], told["K"], told["block_size"], told["bits"])
            found[node.input[1]] = matmulnbits_weight(*given[1:3], given[3] if len(given) > 3 else None, *sizes).T
        elif node.op_type == "DequantizeLinear" and given[0] is not None:
            zero = given[2] if len(given) > 2 else None
            found[node.input[0]] = dequantized(*given[:2], zero, told.get("axis", 1), told.get("block_size", 0))
    return found
