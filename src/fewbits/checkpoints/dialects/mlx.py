"""MLX's dialect, its affine mode: codes counted from the lowest, and w = scale * code + bias per group of columns.

    weight  U32 (rows, cols * bits / 32)   the codes of a row one after another
    scales  F16, BF16 or F32 (rows, groups)
    biases  the same

A symmetric format has biases of minus the middle code times the scale, which is exact: the middle is a power of two. Of
free biases no format here is the equal, so such files are refused. Source: mlx.core.quantize.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Array, Arrays, Configuration, Files, Slots, array, one_of, stem
from fewbits.checkpoints.dialects.packing import from_words, to_words, word_count
from fewbits.checkpoints.dialects.uniform import DTYPES, SCALES, Uniform, uniform, uniform_name, uniform_of
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import packed_bytes

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)


class MLX:
    """Symmetric whole numbers of 2 to 8 bits in groups of 32, 64 or 128 columns."""

    name = "mlx"
    readers = "mlx-lm"
    keys: tuple[str, ...] = ("quantization", "quantization_config")
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats."""
        found = uniform(matrix.format)
        if found is None or found.bits not in BITS or found.group not in GROUPS or not found.symmetric:
            return (
                f"is {matrix.format}, and MLX's dialect holds symmetric whole numbers in groups of 32, 64 or 128 "
                "columns, such as int4_g64_sym_f16"
            )
        return None if len(matrix.shape) == 2 else f"has {len(matrix.shape)} sides, and MLX's dialect holds matrices"

    def slots(self, matrix: Matrix) -> Slots:
        """Codes, scales, biases."""
        (rows, cols), found = matrix.shape, uniform_of(matrix)
        module, lines = stem(matrix.name), (rows, found.groups(cols))
        return {
            f"{module}.weight": ("U32", (rows, word_count(cols, found.bits))),
            f"{module}.scales": (DTYPES[found.scale], lines),
            f"{module}.biases": (DTYPES[found.scale], lines),
        }

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Codes counted from the lowest one; raises CheckpointError where a bias is beyond its type."""
        found, module = uniform_of(matrix), stem(matrix.name)
        biases = _biases(fields["scale"], found)
        if not _all_finite(biases):
            raise CheckpointError(
                f"tensor {matrix.name} has a scale whose bias is beyond {found.scale}; take bf16 or f32 scales."
            )
        return {
            f"{module}.weight": to_words(found.counted(fields["codes"], matrix.shape[1])).view(np.uint32),
            f"{module}.scales": fields["scale"],
            f"{module}.biases": biases,
        }

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """MLX has no method to state; matrices that stay are set to false by name."""
        one_of(matrices, self.name)
        found = uniform_of(matrices[0])
        facts = {"group_size": found.group, "bits": found.bits, "mode": "affine"}
        return {**facts, **{stem(name): False for name in plain}}

    def recognizes(self, configuration: Configuration) -> bool:
        """By its two keys and no method."""
        return "quant_method" not in configuration and {"group_size", "bits"} <= set(configuration)

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has `biases`."""
        bits, group = configuration.get("bits"), configuration.get("group_size")
        if bits not in BITS or group not in GROUPS or configuration.get("mode", "affine") != "affine":
            raise CheckpointError(
                f"quantization_config states bits = {quoted(bits)}, group_size = {quoted(group)} and mode = "
                f"{quoted(configuration.get('mode'))}; MLX's dialect is read in the mode affine."
            )
        found = {}
        for each in files.names():
            if each.endswith(".biases"):
                module = each.removesuffix(".biases")
                scale = files.read(f"{module}.scales")
                if len(scale.shape) != 2 or scale.format not in SCALES:
                    raise CheckpointError(f"tensor {scale.name} is {scale.format} {list(scale.shape)}; it is damaged.")
                name = uniform_name(bits, group, symmetric=True, scale=SCALES[scale.format])
                found[f"{module}.weight"] = Matrix(f"{module}.weight", name, (scale.shape[0], scale.shape[1] * group))
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes and scales; raises CheckpointError where biases are other than those of symmetric codes."""
        found = uniform_of(matrix)
        words, scale, biases = (array(files, name, *slot) for name, slot in self.slots(matrix).items())
        if not np.array_equal(_biases(scale, found), biases):
            raise CheckpointError(
                f"tensor {matrix.name} has biases of its own, as mlx.core.quantize makes them, and no format here is "
                "the equal of that; start from the original model."
            )
        packed = from_words(words, packed_bytes(matrix.shape[1], found.bits))
        return {"codes": found.counted(packed, matrix.shape[1]), "scale": scale}


def _biases(scale: Array, found: Uniform) -> Array:
    """Minus the middle code times the scale, in the scale's type: exact but for what leaves its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        if scale.dtype != np.uint16:
            smaller: Array = (scale.astype(np.float64) * -found.middle).astype(scale.dtype)
            return smaller
        numbers = (scale.astype(np.uint32) << 16).view(np.float32) * np.float32(-found.middle)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def _all_finite(numbers: Array) -> bool:
    if numbers.dtype == np.uint16:
        return bool((numbers & 0x7F80 != 0x7F80).all())
    return bool(np.isfinite(numbers).all())
