"""torchao's classes of small floats: w = scale * element, or scale * E4M3 * element for NVFP4.

    Float8Tensor  qdata F8_E4M3 or F8_E5M2 (rows, cols); scale F32 (rows, groups), (rows, 1) or (1, 1)
    NVFP4Tensor   qdata U8 (rows, cols / 2), the first code below; scale F8_E4M3 (rows, cols / 16), or in tiles of 128
                  rows and 4 columns, as NVIDIA's kernels want them; per_tensor_scale F32 (), 1 where there is none

NVFP4's equation is ours, in the same order: the two scales first. Of MX torchao has no class whose inputs stay as they
are. Source of the tiles: NVIDIA's cuBLAS documentation, block scaling factors layout.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Array, Arrays, Files, Slots, sides
from fewbits.checkpoints.dialects.torchao_classes import (
    CODES,
    FLOAT8_INPUTS,
    ROW,
    SCALE,
    TENSOR,
    TENSOR_SCALE,
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
from fewbits.checkpoints.fields import Matrix
from fewbits.formats import Fields

_FLOATS = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2"}
_TORCH = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
NVFP4 = "nvfp4"
SPAN = 16


class Float8:
    """FP8 with scales in F32 per tensor, row or group; E4M3 per row with inputs rounded too."""

    name = "Float8Tensor"
    needs = frozenset((CODES, SCALE))
    may: frozenset[str] = frozenset()

    def holds(self, matrix: Matrix) -> bool:
        """Such formats."""
        element, scope = _float_of(matrix)
        return bool(element) and (
            matrix.activation is None or (matrix.activation == "fp8_token" and (element, scope) == ("e4m3", ROW))
        )

    def parts(self, matrix: Matrix) -> Slots:
        """Codes and scales."""
        (rows, cols), (element, scope) = matrix.shape, _float_of(matrix)
        lines = (1, 1) if scope == TENSOR else (rows, 1 if scope == ROW else cols // int(scope))
        return {CODES: (f"F8_{element.upper()}", (rows, cols)), SCALE: ("F32", lines)}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The fields themselves."""
        return {CODES: fields["codes"], SCALE: fields["scale"]}

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """The parts themselves."""
        return {"codes": parts[CODES], "scale": parts[SCALE]}

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """What shares a scale, how inputs are rounded, by which kernels."""
        (rows, cols), (_, scope) = matrix.shape, _float_of(matrix)
        rounded = typed("QuantizeTensorToFloat8Kwargs", FLOAT8_INPUTS) if matrix.activation else None
        return {
            "block_size": [rows, cols] if scope == TENSOR else [1, cols if scope == ROW else int(scope)],
            "mm_config": FLOAT8_INPUTS["mm_config"] if matrix.activation else None,
            "act_quant_kwargs": rounded,
            "kernel_preference": FLOAT8_INPUTS["kernel_preference"],
            "dtype": dtype_of(dtype),
        }

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """Float8WeightOnlyConfig, or the one that rounds inputs."""
        element, scope = _float_of(matrix)
        own = granularity(scope if isinstance(scope, int) else 0, per_tensor=scope == TENSOR)
        data: dict[str, Any] = {"weight_dtype": dtype_of(_TORCH[element]), "granularity": own}
        if matrix.activation:
            return typed("Float8DynamicActivationFloat8WeightConfig", data | {"granularity": [own, own]}, 2)
        return typed("Float8WeightOnlyConfig", data, 2)

    def stated(self, said: Said, files: Files) -> Matrix:
        """By the type of the codes and what shares a scale."""
        codes = part_name(said.name, CODES)
        shape, dtype = sides(files, codes), files.read(codes).format
        if dtype not in _FLOATS:
            raise refused(said, f"with codes of {dtype}, and F8_E4M3 and F8_E5M2 are read")
        scope = scope_of(said, shape)
        name = f"fp8_{_FLOATS[dtype]}_{scope if isinstance(scope, str) else f'g{scope}'}"
        return Matrix(said.name, name, shape, activation_of(said, "QuantizeTensorToFloat8Kwargs", FLOAT8_INPUTS))


def _float_of(matrix: Matrix) -> tuple[str, str | int]:
    """Element and scope of an FP8 format that torchao has; ("", "") for others."""
    found = re.fullmatch(r"fp8_(e4m3|e5m2)_(?:(tensor|row)|g(\d+))", matrix.format)
    return (found[1], found[2] or int(found[3])) if found else ("", "")


class NVFP4Plain:
    """NVFP4, its scales row by row."""

    name = "NVFP4Tensor"
    needs = frozenset((CODES, SCALE))
    may = frozenset((TENSOR_SCALE,))
    tiled = False

    def holds(self, matrix: Matrix) -> bool:
        """That format, inputs as they are."""
        return matrix.format == NVFP4 and matrix.activation is None

    def parts(self, matrix: Matrix) -> Slots:
        """Codes, scales of groups, the one of the tensor."""
        rows, cols = matrix.shape
        lines = tile_sides(rows, cols // SPAN) if self.tiled else (rows, cols // SPAN)
        return {CODES: ("U8", (rows, cols // 2)), SCALE: ("F8_E4M3", lines), TENSOR_SCALE: ("F32", ())}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The fields themselves."""
        return {CODES: fields["codes"], SCALE: fields["scale"], TENSOR_SCALE: fields["tensor_scale"].reshape(())}

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """The parts themselves; a scale of the tensor that is not there is 1."""
        tensor = parts.get(TENSOR_SCALE, np.ones((), np.float32)).reshape(1, 1)
        rows, groups = matrix.shape[0], matrix.shape[1] // SPAN
        scale = from_tiles(parts[SCALE], rows, groups) if self.tiled else parts[SCALE]
        return {"codes": parts[CODES], "scale": scale, "tensor_scale": tensor}

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """Columns that share a scale, what is decoded to."""
        more = {"is_swizzled_scales": self.tiled, "use_triton_kernel": False, "act_quant_kwargs": None}
        return {**more, "block_size": SPAN, "orig_dtype": dtype_of(dtype)}

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """NVFP4WeightOnlyConfig."""
        return typed("NVFP4WeightOnlyConfig", {"use_dynamic_per_tensor_scale": True}, 1)

    def stated(self, said: Said, files: Files) -> Matrix:
        """NVFP4 in groups of 16."""
        require_none(said, "act_quant_kwargs", "with inputs rounded to NVFP4")
        rows, half = sides(files, part_name(said.name, CODES))
        if said.facts.get("block_size") != SPAN:
            raise refused(said, "in groups of other than 16 columns; the file is damaged")
        return Matrix(said.name, NVFP4, (rows, 2 * half))


class NVFP4Tiled(NVFP4Plain):
    """NVFP4, its scales in tiles: read, and written row by row."""

    tiled = True

    def holds(self, matrix: Matrix) -> bool:
        """Nothing that is written."""
        return False


def tile_sides(rows: int, groups: int) -> tuple[int, int]:
    """The shape in the file of scales (rows, groups) in tiles.

    >>> tile_sides(130, 5)
    (64, 32)
    """
    return 32 * -(-rows // 128), 16 * -(-groups // 4)


def from_tiles(tiled: Array, rows: int, groups: int) -> Array:
    """Scales (rows, groups) of tiles of 128 rows by 4: of each, row r % 32 holds rows r, r + 32, ... side by side."""
    down, across = -(-rows // 128), -(-groups // 4)
    tiles = tiled.reshape(down, across, 32, 4, 4)
    whole = tiles.transpose(0, 3, 2, 1, 4).reshape(128 * down, 4 * across)
    return np.ascontiguousarray(whole[:rows, :groups])
