"""MLX's dialect: codes counted from the lowest in words of a row, and what is beside them, by MLX's mode.

    affine           weight  U32 (rows, cols * bits / 32)    the codes of a row one after another
                     scales  F16, BF16 or F32 (rows, groups)
                     biases  the same; w = scale * code + bias
    mxfp4, mxfp8     weight  U32 (rows, cols * bits / 32)    codes of E2M1, of E4M3
                     scales  U8 (rows, groups of 32)         powers of two

A symmetric format has biases of minus the middle code times the scale. With scales of 16 bits the product of scale and
code is exact in float32, so the sum is too; with scales of 32 bits it is not, and such formats are refused. MLX states
the facts of single modules beside those of the rest. Source: mlx.core.quantize and dequantize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Array, Arrays, Configuration, Files, Slots, array, sides, stem
from fewbits.checkpoints.dialects.offset import Offset, offset
from fewbits.checkpoints.dialects.packing import from_words, to_words, word_count
from fewbits.checkpoints.dialects.uniform import DTYPES, SCALES, SIXTEEN, Uniform, uniform, uniform_name, uniform_of
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import packed_bytes

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
AFFINE = "affine"
MODES = {"mxfp4": "mxfp4", "mxfp8": "mxfp8_e4m3"}
"""Mode of MLX beside affine -> the format that is the same."""


@dataclass(frozen=True)
class Facts:
    """What MLX states of a module."""

    group_size: int
    bits: int
    mode: str


_POWERS = {"mxfp4": Facts(32, 4, "mxfp4"), "mxfp8": Facts(32, 8, "mxfp8")}


class MLX:
    """Whole numbers of 2, 3, 4, 5, 6 or 8 bits with a bias, or symmetric, in groups of 32, 64 or 128 columns; MXFP4 and
    MXFP8.
    """

    name = "mlx"
    readers = "mlx-lm"
    keys: tuple[str, ...] = ("quantization", "quantization_config")
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats."""
        if _facts(matrix.format) is None:
            return f"is {matrix.format}, and {_why_not(matrix.format)}"
        return None if len(matrix.shape) == 2 else f"has {len(matrix.shape)} sides, and MLX's dialect holds matrices"

    def slots(self, matrix: Matrix) -> Slots:
        """Codes, scales, and in the mode affine biases."""
        (rows, cols), facts, module = matrix.shape, _facts_of(matrix), stem(matrix.name)
        lines = (rows, cols // facts.group_size)
        weight = {f"{module}.weight": ("U32", (rows, word_count(cols, facts.bits)))}
        if facts.mode != AFFINE:
            return {**weight, f"{module}.scales": ("U8", lines)}
        dtype = DTYPES[_scale(matrix)]
        return {**weight, f"{module}.scales": (dtype, lines), f"{module}.biases": (dtype, lines)}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Codes counted from the lowest one; raises CheckpointError where a bias is beyond its type."""
        module, symmetric = stem(matrix.name), uniform(matrix.format)
        codes = symmetric.counted(fields["codes"], matrix.shape[1]) if symmetric else fields["codes"]
        packed = {f"{module}.weight": to_words(codes).view(np.uint32), f"{module}.scales": fields["scale"]}
        if _facts_of(matrix).mode != AFFINE:
            return packed
        biases = _biases(fields["scale"], symmetric.middle) if symmetric else fields["bias"]
        if symmetric and not _all_finite(biases):
            raise CheckpointError(
                f"tensor {matrix.name} has a scale whose bias is beyond {symmetric.scale}; take bf16 scales."
            )
        return {**packed, f"{module}.biases": biases}

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """MLX has no method to state; matrices with other facts than the first are named, others that stay as well."""
        facts = {stem(matrix.name): asdict(_facts_of(matrix)) for matrix in matrices}
        usual = next(iter(facts.values()))
        others = {module: own for module, own in facts.items() if own != usual}
        return {**usual, **others, **{stem(name): False for name in plain}}

    def recognizes(self, configuration: Configuration) -> bool:
        """By its two keys and no method."""
        return "quant_method" not in configuration and {"group_size", "bits"} <= set(configuration)

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has `scales`."""
        usual, found = _stated(configuration, "quantization_config"), {}
        names = set(files.names())
        for each in files.names():
            module = each.removesuffix(".scales")
            if module != each and f"{module}.weight" in names:
                own = configuration.get(module)
                facts = _stated(own, module) if isinstance(own, dict) else usual
                found[f"{module}.weight"] = _matrix(module, facts, files)
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes, scales and biases."""
        read = {name.rpartition(".")[2]: array(files, name, *slot) for name, slot in self.slots(matrix).items()}
        cols = matrix.shape[1]
        packed = from_words(read["weight"], packed_bytes(cols, _facts_of(matrix).bits))
        symmetric = uniform(matrix.format)
        if symmetric is not None:
            return {"codes": symmetric.counted(packed, cols), "scale": read["scales"]}
        biases = {"bias": read["biases"]} if "biases" in read else {}
        return {"codes": packed, "scale": read["scales"], **biases}


def _facts(format_name: str) -> Facts | None:
    """What MLX would state of a format; None where it holds none such."""
    mode = next((mode for mode, same in MODES.items() if same == format_name), None)
    if mode is not None:
        return _POWERS[mode]
    found: Uniform | Offset | None = offset(format_name) or uniform(format_name)
    if found is None or found.bits not in BITS or found.group not in GROUPS:
        return None
    if isinstance(found, Offset):
        return Facts(found.group, found.bits, AFFINE) if found.word == "bias" else None
    return Facts(found.group, found.bits, AFFINE) if found.symmetric and found.scale in SIXTEEN else None


def _facts_of(matrix: Matrix) -> Facts:
    found = _facts(matrix.format)
    if found is None:
        raise CheckpointError(f"tensor {matrix.name} is {matrix.format}, which MLX's dialect does not hold.")
    return found


def _scale(matrix: Matrix) -> str:
    """The word for the type of the scales."""
    own = offset(matrix.format)
    return own.scale if own else uniform_of(matrix).scale


def _why_not(format_name: str) -> str:
    """What the dialect holds instead, and for which reason."""
    own, whole = offset(format_name), uniform(format_name)
    instead = "MLX's dialect holds whole numbers with a bias in groups of 32, 64 or 128 columns, such as "
    if format_name == "nvfp4":
        return "MLX has no scale of the whole tensor beside its own mode nvfp4; take mxfp4 or uint4_g64_bias_bf16"
    if own and own.word == "floatzero":
        return f"MLX adds a bias where this subtracts a zero point, which rounds otherwise; {instead}uint4_g64_bias_f16"
    if whole and whole.group in GROUPS and not whole.symmetric:
        return f"minus its zero points times its scales are biases that would be rounded; {instead}uint4_g64_bias_f16"
    if whole and whole.group in GROUPS and whole.symmetric and whole.scale == "f32":
        return "with scales of 32 bits MLX rounds twice where this rounds once; take scales of 16 bits, such as f16"
    return f"{instead}uint4_g64_bias_f16, symmetric ones, mxfp4 and mxfp8_e4m3"


def _stated(stated: Mapping[str, Any], where: str) -> Facts:
    """What a configuration states; raises CheckpointError where MLX has no such thing."""
    bits, group, mode = stated.get("bits"), stated.get("group_size"), stated.get("mode", AFFINE)
    power = _POWERS.get(mode) if isinstance(mode, str) else None
    if mode == AFFINE and type(bits) is int and bits in BITS and type(group) is int and group in GROUPS:
        return Facts(group, bits, AFFINE)
    if power is not None and (bits, group) == (power.bits, power.group_size):
        return power
    raise CheckpointError(
        f"{quoted(where)} states bits = {quoted(bits)}, group_size = {quoted(group)} and mode = {quoted(mode)}; MLX's "
        "dialect is read in the modes affine, mxfp4 and mxfp8, with the bits and groups that they have."
    )


def _matrix(module: str, facts: Facts, files: Files) -> Matrix:
    """The matrix of a module, under the name of a symmetric format where its biases are those of one."""
    rows, groups = sides(files, f"{module}.scales")
    shape = (rows, groups * facts.group_size)
    if facts.mode != AFFINE:
        return Matrix(f"{module}.weight", MODES[facts.mode], shape)
    scale = files.read(f"{module}.scales")
    if scale.format not in SCALES:
        raise CheckpointError(f"tensor {quoted(scale.name)} is {quoted(scale.format)}; it is damaged.")
    word = SCALES[scale.format]
    numbers, biases = (array(files, f"{module}.{each}", scale.format, scale.shape) for each in ("scales", "biases"))
    if word in SIXTEEN and _is_symmetric(numbers, biases, 2 ** (facts.bits - 1)):
        name = uniform_name(facts.bits, facts.group_size, symmetric=True, scale=word)
    else:
        name = Offset(facts.bits, facts.group_size, "bias", word).name
    return Matrix(f"{module}.weight", name, shape)


def _is_symmetric(scale: Array, biases: Array, middle: int) -> bool:
    """Whether all biases are minus the middle code times the scale, bit by bit; one row is looked at first."""
    same = all(
        np.array_equal(_bits(_biases(scale[part], middle)), _bits(biases[part])) for part in (slice(1), slice(None))
    )
    return scale.size > 0 and same


def _bits(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers).view(np.uint16)


def _biases(scale: Array, middle: int) -> Array:
    """Minus the middle code times the scale, in the scale's type: exact but for what leaves its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        if scale.dtype != np.uint16:
            smaller: Array = (scale.astype(np.float32) * np.float32(-middle)).astype(scale.dtype)
            return smaller
        numbers = (scale.astype(np.uint32) << 16).view(np.float32) * np.float32(-middle)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def _all_finite(numbers: Array) -> bool:
    if numbers.dtype == np.uint16:
        return bool((numbers & 0x7F80 != 0x7F80).all())
    return bool(np.isfinite(numbers).all())
