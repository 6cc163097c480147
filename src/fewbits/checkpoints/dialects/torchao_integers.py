"""torchao's classes of whole numbers: w = scale * (code - zero_point), codes and zero points counted from 0.

IntxUnpackedToInt8Tensor  qdata I8 (rows, cols), one code a byte; scale (rows, groups); zero_point I8 (rows, groups)
Int4Tensor                qdata I8 (rows, cols / 2), the first code below; scale and zero_point (groups, rows), the
                          latter floats that are added, and 0 here
Int8Tensor                qdata I8 (rows, cols); scale F32 (rows, groups), (rows, 1) or (1, 1); zero_point I8, 0
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.base import Array, Arrays, Files, Slots, sides
from fewbits.checkpoints.dialects.torchao_classes import (
    CODES,
    INT8_INPUTS,
    ROW,
    SCALE,
    TENSOR,
    ZERO,
    Said,
    activation_of,
    dtype_of,
    granularity,
    part_name,
    refused,
    require_none,
    scope_of,
    typed,
)
from fewbits.checkpoints.dialects.uniform import DTYPES, SCALES, Uniform, uniform, uniform_name, uniform_of
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, unpack_bits


def _signed(found: Uniform, counted: npt.NDArray[np.uint8]) -> Array:
    """Codes counted from the lowest, as int8 counted from 0."""
    return (counted - np.uint8(found.middle)).view(np.int8)


def _counted(matrix: Matrix, found: Uniform, signed: Array, what: str) -> npt.NDArray[np.uint8]:
    """Whole numbers counted from 0, counted from the lowest code; raises CheckpointError beyond the bits."""
    counted: npt.NDArray[np.uint8] = signed.view(np.uint8) + np.uint8(found.middle)
    if (counted >> found.bits).any() if found.bits < 8 else False:
        raise CheckpointError(f"tensor {matrix.name} has {what} beyond {found.bits} bits; the file is damaged.")
    return counted


def _whole(matrix: Matrix, fields: Fields) -> Array:
    """The codes (rows, cols), int8."""
    found, cols = uniform_of(matrix), matrix.shape[1]
    return _signed(found, unpack_bits(found.counted(fields["codes"], cols), found.bits, cols))


def _from_whole(matrix: Matrix, codes: Array) -> npt.NDArray[np.uint8]:
    """The field of codes (rows, cols), int8."""
    found = uniform_of(matrix)
    return found.counted(pack_bits(_counted(matrix, found, codes, "codes"), found.bits), matrix.shape[1])


class Intx:
    """Whole numbers of 2 to 8 bits per group or row, a byte each, that any device multiplies once they are decoded."""

    name = "IntxUnpackedToInt8Tensor"
    needs = frozenset((CODES, SCALE, ZERO))
    may: frozenset[str] = frozenset()

    def holds(self, matrix: Matrix) -> bool:
        """All of them, inputs as they are."""
        found = uniform(matrix.format)
        return found is not None and not found.per_tensor and matrix.activation is None

    def parts(self, matrix: Matrix) -> Slots:
        """Codes, scales, zero points."""
        found, (rows, cols) = uniform_of(matrix), matrix.shape
        lines = rows, found.groups(cols)
        return {CODES: ("I8", (rows, cols)), SCALE: (DTYPES[found.scale], lines), ZERO: ("I8", lines)}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Codes one by one; zero points of 0 where the format has none."""
        found, (rows, cols) = uniform_of(matrix), matrix.shape
        zeros = _signed(found, found.zeros(fields, rows, found.groups(cols)))
        return {CODES: _whole(matrix, fields), SCALE: fields["scale"], ZERO: zeros}

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """Codes packed, and zero points where they are not all 0."""
        found = uniform_of(matrix)
        zeros = _counted(matrix, found, parts[ZERO], "zero points")
        fields = {"codes": _from_whole(matrix, parts[CODES]), "scale": parts[SCALE]}
        return {**fields, **found.zero_fields(zeros, matrix)}

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """Bits, columns that share a scale, what is decoded to."""
        found = uniform_of(matrix)
        return {
            "target_dtype": dtype_of(f"int{found.bits}"),
            "block_size": [1, found.group or matrix.shape[1]],
            "dtype": dtype_of(dtype),
            "activation_quantization": None,
        }

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """IntxWeightOnlyConfig, which calls rows an axis."""
        found = uniform_of(matrix)
        data = {
            "weight_dtype": dtype_of(f"int{found.bits}"),
            "granularity": granularity(found.group) if found.group else typed("PerAxis", {"axis": 0}, 1),
            "mapping_type": typed("MappingType", "SYMMETRIC" if found.symmetric else "ASYMMETRIC"),
        }
        return typed("IntxWeightOnlyConfig", data, 2)

    def stated(self, said: Said, files: Files) -> Matrix:
        """Symmetric where every zero point is 0, which the header does not say."""
        require_none(said, "activation_quantization", "with inputs rounded to whole numbers with zero points")
        shape, kind = sides(files, part_name(said.name, CODES)), said.facts.get("target_dtype")
        bits = re.fullmatch(r"int([2-8])", str(kind.get("_data"))) if isinstance(kind, dict) else None
        scope, scale = scope_of(said, shape), files.read(part_name(said.name, SCALE)).format
        zero = files.read(part_name(said.name, ZERO))
        if bits is None or scope == TENSOR or scale not in SCALES:
            raise refused(said, f"of {quoted(kind)} with scales of {scale} per {scope}, and no format here is that")
        if zero.format != "I8":
            raise refused(said, f"with zero points in {zero.format}, and only whole ones are read")
        symmetric, group = not zero.buffer.any(), 0 if scope == ROW else int(scope)
        name = uniform_name(int(bits[1]), group, symmetric=symmetric, scale=SCALES[scale], signed=symmetric)
        return Matrix(said.name, name, shape)


class Int4:
    """Symmetric whole numbers of 4 bits, scales in BF16 per 32, 64, 128 or 256 columns, as CUDA's kernels want them."""

    name = "Int4Tensor"
    needs = frozenset((CODES, SCALE, ZERO))
    may: frozenset[str] = frozenset()
    groups = (32, 64, 128, 256)

    def holds(self, matrix: Matrix) -> bool:
        """Such formats: the kernels compute in BF16 alone."""
        found = uniform(matrix.format)
        if found is None or matrix.activation is not None:
            return False
        return found.bits == 4 and found.symmetric and found.scale == "bf16" and found.group in self.groups

    def parts(self, matrix: Matrix) -> Slots:
        """Codes; scales and zero points with groups as lines."""
        found, (rows, cols) = uniform_of(matrix), matrix.shape
        scale = DTYPES[found.scale], (found.groups(cols), rows)
        return {CODES: ("I8", (rows, cols // 2)), SCALE: scale, ZERO: scale}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The bytes of the codes themselves."""
        scale = np.ascontiguousarray(fields["scale"].T)
        return {CODES: fields["codes"].view(np.int8), SCALE: scale, ZERO: np.zeros_like(scale)}

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """The same; raises CheckpointError where zero points are anything but 0."""
        # The sign of a zero says nothing: -0.0 + x is x.
        if (parts[ZERO].view(np.uint8).reshape(-1, parts[ZERO].itemsize) & _magnitude(parts[ZERO])).any():
            raise CheckpointError(
                f"tensor {matrix.name} is an Int4Tensor of torchao with zero points in floats, and no format here is "
                "the equal of that; start from the original model."
            )
        return {"codes": parts[CODES].view(np.uint8), "scale": np.ascontiguousarray(parts[SCALE].T)}

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """The kernels' type, columns that share a scale, sides."""
        shared = [1, uniform_of(matrix).group]
        return {"activation_dtype": dtype_of("bfloat16"), "block_size": shared, "shape": list(matrix.shape)}

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """Int4WeightOnlyConfig in its plain packing."""
        packing = typed("Int4PackingFormat", "PLAIN")
        data = {"group_size": uniform_of(matrix).group, "int4_packing_format": packing}
        return typed("Int4WeightOnlyConfig", data, 2)

    def stated(self, said: Said, files: Files) -> Matrix:
        """Groups of a row; inputs in BF16."""
        if said.facts.get("activation_dtype") not in (None, dtype_of("bfloat16")):
            raise refused(said, "with inputs rounded to FP8, which is not read with weights of 4 bits")
        rows, half = sides(files, part_name(said.name, CODES))
        shape, scale = (rows, 2 * half), files.read(part_name(said.name, SCALE)).format
        scope = scope_of(said, shape)
        if scope == TENSOR or scale not in SCALES:
            raise refused(said, f"with scales of {scale} per {scope}, and no format here is that")
        group = shape[1] if scope == ROW else int(scope)
        return Matrix(said.name, uniform_name(4, group, symmetric=True, scale=SCALES[scale]), shape)


def _magnitude(numbers: Array) -> npt.NDArray[np.uint8]:
    """A mask of all bits of a number but its sign, byte by byte."""
    return np.array([255] * (numbers.itemsize - 1) + [127], np.uint8)


class Int8:
    """Symmetric INT8 with scales in F32 per row, per tensor or per group; by row or tensor with rounded inputs too."""

    name = "Int8Tensor"
    needs = frozenset((CODES, SCALE))
    may = frozenset((ZERO,))

    def holds(self, matrix: Matrix) -> bool:
        """Such formats; inputs are rounded for whole rows alone."""
        found = uniform(matrix.format)
        if found is None or found.bits != 8 or not found.symmetric or found.scale != "f32":
            return False
        return matrix.activation is None or (matrix.activation == "int8_token" and not found.group)

    def parts(self, matrix: Matrix) -> Slots:
        """Codes, scales, zero points."""
        found, (rows, cols) = uniform_of(matrix), matrix.shape
        lines = (1, 1) if found.per_tensor else (rows, found.groups(cols))
        return {CODES: ("I8", (rows, cols)), SCALE: ("F32", lines), ZERO: ("I8", lines)}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Codes one by one; zero points of 0, as torchao writes them."""
        scale = fields["scale"]
        return {CODES: _whole(matrix, fields), SCALE: scale, ZERO: np.zeros(scale.shape, np.int8)}

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """Codes and scales; raises CheckpointError where zero points are anything but 0."""
        if ZERO in parts and parts[ZERO].any():
            raise CheckpointError(
                f"tensor {matrix.name} is an Int8Tensor of torchao with zero points other than 0, which it decodes "
                "with and multiplies without; start from the original model."
            )
        return {"codes": _from_whole(matrix, parts[CODES]), "scale": parts[SCALE]}

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """What shares a scale, how inputs are rounded."""
        found = uniform_of(matrix)
        shared = list(matrix.shape) if found.per_tensor else [1, found.group or matrix.shape[1]]
        rounded = typed("QuantizeTensorToInt8Kwargs", INT8_INPUTS) if matrix.activation else None
        return {"act_quant_kwargs": rounded, "reduce_range": False, "block_size": shared, "dtype": dtype_of(dtype)}

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """Int8WeightOnlyConfig, or the one that rounds inputs."""
        found = uniform_of(matrix)
        own = granularity(found.group, per_tensor=found.per_tensor)
        if matrix.activation:
            return typed("Int8DynamicActivationInt8WeightConfig", {"granularity": [granularity(0), own]}, 2)
        return typed("Int8WeightOnlyConfig", {"granularity": own}, 2)

    def stated(self, said: Said, files: Files) -> Matrix:
        """By what shares a scale."""
        shape = sides(files, part_name(said.name, CODES))
        scope = scope_of(said, shape)
        name = f"int8_{scope if isinstance(scope, str) else f'g{scope}'}_sym"
        return Matrix(said.name, name, shape, activation_of(said, "QuantizeTensorToInt8Kwargs", INT8_INPUTS))
