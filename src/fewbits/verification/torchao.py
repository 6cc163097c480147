"""The stranger's reading of torchao's tensors: numbers from the parts of a class and the facts that a header states.

Written from what torchao's `dequantize` does, in numpy; it shares nothing with the code that packs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import VerificationError
from fewbits.verification.fields import small_float

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]
Parts = Mapping[str, Numbers]
Rows = Callable[[int, int], Floats]

_INPUTS = {"QuantizeTensorToInt8Kwargs": "int8_token", "QuantizeTensorToFloat8Kwargs": "fp8_token"}


def read_torchao(stated: Mapping[str, Any], parts: Parts, dtype: str) -> tuple[tuple[int, ...], str | None, Rows]:
    """Shape, rounding of inputs, and rows as numbers; `dtype` is that of the codes in the file."""
    kind, facts = stated["_type"], stated["_data"]
    if kind not in _READINGS:
        raise VerificationError(f"verification has no reading of torchao's {kind}; the output is not kept.")
    shape, numbers = _READINGS[kind](facts, parts, dtype)
    rounded = facts.get("act_quant_kwargs")
    return shape, _INPUTS[rounded["_type"]] if rounded else None, numbers


def _along(scale: Numbers, shape: tuple[int, ...], start: int, stop: int) -> Numbers:
    """A line of parameters (lines, groups) for each row from `start` on, and each column."""
    down, across = shape[0] // scale.shape[0], shape[1] // scale.shape[1]
    return np.repeat(scale[np.arange(start, stop) // down], across, axis=1)


def _whole(_: Mapping[str, Any], parts: Parts, dtype: str) -> tuple[tuple[int, ...], Rows]:
    codes, scale = parts["qdata"], parts["scale"]
    zero = parts.get("zero_point", np.zeros(scale.shape, np.int8))

    def numbers(start: int, stop: int) -> Floats:
        steps = codes[start:stop].astype(np.float32) - _along(zero, codes.shape, start, stop).astype(np.float32)
        found: Floats = steps * _along(scale, codes.shape, start, stop).astype(np.float32)
        return found

    return codes.shape, numbers


def _halves(pairs: Numbers) -> Numbers:
    """Codes of bytes (rows, n): the lower four bits come first."""
    octets = pairs.view(np.uint8)
    return np.stack([octets & 15, octets >> 4], axis=-1).reshape(len(octets), -1)


def _four_bits(_: Mapping[str, Any], parts: Parts, dtype: str) -> tuple[tuple[int, ...], Rows]:
    pairs, scale, added = parts["qdata"], parts["scale"].T, parts["zero_point"].T
    shape = len(pairs), 2 * pairs.shape[1]

    def numbers(start: int, stop: int) -> Floats:
        codes = _halves(pairs[start:stop]).astype(np.int16)
        signed = np.where(codes < 8, codes, codes - 16).astype(np.float32)
        found: Floats = signed * _along(scale, shape, start, stop).astype(np.float32)
        return found + _along(added, shape, start, stop).astype(np.float32)

    return shape, numbers


def _eight_bits(_: Mapping[str, Any], parts: Parts, dtype: str) -> tuple[tuple[int, ...], Rows]:
    codes, scale = parts["qdata"], parts["scale"]
    table = small_float(4, 3) if dtype == "F8_E4M3" else small_float(5, 2)

    def numbers(start: int, stop: int) -> Floats:
        found: Floats = table[codes[start:stop]] * _along(scale, codes.shape, start, stop)
        return found

    return codes.shape, numbers


def _nvfp4(facts: Mapping[str, Any], parts: Parts, dtype: str) -> tuple[tuple[int, ...], Rows]:
    pairs, whole = parts["qdata"], parts.get("per_tensor_scale", np.ones((), np.float32))
    shape, elements = (len(pairs), 2 * pairs.shape[1]), small_float(2, 1)
    groups = small_float(4, 3)[parts["scale"]]
    if facts["is_swizzled_scales"]:
        row, group = np.divmod(np.arange(shape[0] * (shape[1] // 16)), shape[1] // 16)
        tile = row // 128 * -(-(shape[1] // 16) // 4) + group // 4
        within = row % 32 * 16 + row % 128 // 32 * 4 + group % 4
        groups = groups.reshape(-1)[tile * 512 + within].reshape(shape[0], -1)
    scale = whole * groups

    def numbers(start: int, stop: int) -> Floats:
        found: Floats = _along(scale, shape, start, stop) * elements[_halves(pairs[start:stop])]
        return found

    return shape, numbers


_READINGS: Mapping[str, Callable[[Mapping[str, Any], Parts, str], tuple[tuple[int, ...], Rows]]] = {
    "IntxUnpackedToInt8Tensor": _whole,
    "Int8Tensor": _whole,
    "Int4Tensor": _four_bits,
    "Float8Tensor": _eight_bits,
    "NVFP4Tensor": _nvfp4,
}
