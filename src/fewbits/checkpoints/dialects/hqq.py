"""HQQ's dialect: w = (code - zero) * scale per group of columns, the zero point a number of its own, as safetensors.

    W_q     U8, for 3 bits I32    groups, one a line, laid over each other: word k of a column has line k of each part
    scale   F16, BF16 or F32 (rows * groups, 1)
    zero    the same
    ...     what the reader has to know, each a tensor: whole numbers and truths as such, words as bytes

The lines are cut into as many parts as a word has codes (8 / bits in a byte, ten of 3 bits in 32), the first in the
highest bits. Zero points that are whole numbers are those of integers. Groups that run down the columns (axis 0), codes
seen as floats and quantized scales are refused. Source: hqq 0.2.8, HQQLinear.state_dict and BitPack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.base import Array, Arrays, Configuration, Files, Slots, array, stem
from fewbits.checkpoints.dialects.hqq_meta import Meta, configured, meta_of, stated_group
from fewbits.checkpoints.dialects.offset import Offset, offset
from fewbits.checkpoints.dialects.uniform import DTYPES, SCALES, uniform, uniform_name
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, unpack_bits

PARTS = {8: 1, 6: 1, 5: 1, 4: 2, 3: 10, 2: 4, 1: 8}
"""Bits -> codes of a word."""
WORDS = {bits: "I32" if bits == 3 else "U8" for bits in PARTS}
UPPER_HALVES = {"f16": np.float16, "f32": np.float32}


class HQQ:
    """Whole numbers of 1 to 6 or 8 bits with a zero point of any kind, a scale per group of columns or per row."""

    name = "hqq"
    readers = "hqq, transformers 4"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats; groups that do not fill words."""
        found = _facts(matrix.format)
        if found is None:
            return (
                f"is {matrix.format}, and HQQ's dialect holds (code - zero) * scale with 1 to 6 or 8 bits per group or "
                "row, such as uint4_g64_floatzero_f16 or uint4_g64_asym_f16"
            )
        if len(matrix.shape) != 2:
            return f"has {len(matrix.shape)} sides, and HQQ's dialect holds matrices"
        lines = matrix.shape[0] * found.groups(matrix.shape[1])
        if found.bits != 3 and lines % PARTS[found.bits]:
            return f"has {lines} groups, and HQQ's words of {found.bits} bits want a multiple of {PARTS[found.bits]}"
        return None

    def slots(self, matrix: Matrix) -> Slots:
        """Codes, scales, zero points, and what there is to know of them."""
        found, module = _facts_of(matrix), stem(matrix.name)
        lines, group = _lines(matrix, found)
        dtype = DTYPES[found.scale]
        words = (-(-lines // PARTS[found.bits]), group)
        numbers: Slots = {"W_q": (WORDS[found.bits], words), "scale": (dtype, (lines, 1)), "zero": (dtype, (lines, 1))}
        return {f"{module}.{key}": slot for key, slot in {**numbers, **_meta(matrix, found).slots()}.items()}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Groups one a line, and parts of the lines over each other."""
        found, module, shape = _facts_of(matrix), stem(matrix.name), _lines(matrix, _facts_of(matrix))
        codes = unpack_bits(_counted(matrix, fields), found.bits, matrix.shape[1]).reshape(shape)
        zero = _zeros(matrix, fields, found)
        numbers: Arrays = {
            "W_q": _over_each_other(codes, found.bits),
            "scale": np.ascontiguousarray(fields["scale"]).reshape(-1, 1),
            "zero": np.ascontiguousarray(zero).reshape(-1, 1),
        }
        return {f"{module}.{key}": each for key, each in {**numbers, **_meta(matrix, found).arrays()}.items()}

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """What transformers' HqqConfig states: kinds of modules that stay are named, without their layers.

        Raises CheckpointError where a module stays and others of its kind do not.
        """
        _require_alike(matrices)
        kept, quantized = {_kind(name): name for name in plain}, {_kind(m.name) for m in matrices}
        both = sorted(set(kept) & quantized)
        if both:
            raise CheckpointError(
                f"tensor {kept[both[0]]} stays as it is and others called {both[0]} do not, which the hqq dialect "
                "cannot say; treat them alike, or take --dialect fewbits."
            )
        found = _facts_of(matrices[0])
        return configured(found.bits, found.group or None, sorted(kept))

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == "hqq"

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a `W_q`."""
        found, group = {}, stated_group(configuration)
        for each in files.names():
            if each.endswith(".W_q"):
                module = each.removesuffix(".W_q")
                found[f"{module}.weight"] = _matrix(module, meta_of(files, module, tuple(PARTS)), group, files)
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes row by row again, scales and zero points beside them."""
        found, module, shape = _facts_of(matrix), stem(matrix.name), _lines(matrix, _facts_of(matrix))
        slots = self.slots(matrix)
        words, scale, zero = (
            array(files, f"{module}.{key}", *slots[f"{module}.{key}"]) for key in ("W_q", "scale", "zero")
        )
        grid = (matrix.shape[0], found.groups(matrix.shape[1]))
        codes = pack_bits(_side_by_side(words, found.bits)[: shape[0]].reshape(matrix.shape), found.bits)
        return _fields(matrix, codes, scale.reshape(grid), zero.reshape(grid))


def _facts(format_name: str) -> Offset | None:
    """Bits, group and type of a format that is held."""
    own = offset(format_name)
    if own is not None:
        return own if own.word == "floatzero" and own.bits in PARTS else None
    whole = uniform(format_name)
    if whole is None or whole.bits not in PARTS or whole.per_tensor:
        return None
    return Offset(whole.bits, whole.group, "floatzero", whole.scale)


def _facts_of(matrix: Matrix) -> Offset:
    found = _facts(matrix.format)
    if found is None:
        raise CheckpointError(f"tensor {matrix.name} is {matrix.format}, which HQQ's dialect does not hold.")
    return found


def _lines(matrix: Matrix, found: Offset) -> tuple[int, int]:
    """Groups of the matrix, and columns of a group."""
    rows, cols = matrix.shape
    return rows * found.groups(cols), found.group or cols


def _meta(matrix: Matrix, found: Offset) -> Meta:
    return Meta(found.bits, found.group or matrix.shape[1], (matrix.shape[0], matrix.shape[1]), found.scale)


def _kind(name: str) -> str:
    """What transformers calls a module: its path without `model`, `layers` and numbers.

    >>> _kind("model.layers.3.self_attn.q_proj.weight")
    'self_attn.q_proj'
    """
    return ".".join(word for word in stem(name).split(".") if word not in ("model", "layers") and not word.isnumeric())


def _require_alike(matrices: Sequence[Matrix]) -> None:
    """Raise CheckpointError where bits, groups or types are not those of all: zero points of any kind are alike."""
    for other in matrices:
        if _facts_of(other) != _facts_of(matrices[0]):
            raise CheckpointError(
                f"the hqq dialect states one number of bits and columns for all matrices, and {matrices[0].name} is "
                f"{matrices[0].format} where {other.name} is {other.format}; give them one, or take --dialect fewbits."
            )


def _matrix(module: str, meta: Meta, stated_group: int | None, files: Files) -> Matrix:
    """The matrix of a module, under the name of whole zero points where all are whole numbers among the codes.

    A group of all columns is a row, unless the configuration states its number.
    """
    rows, cols = meta.shape
    scale = files.read(f"{module}.scale").format
    if scale not in SCALES or SCALES[scale] != meta.scale:
        raise CheckpointError(
            f"tensor {quoted(module)}.scale is {quoted(scale)} and its compute_dtype {meta.dtype}; the file is damaged."
        )
    group = 0 if meta.group_size == cols != stated_group else meta.group_size
    lines = rows * (cols // meta.group_size)
    zero = _numbers(array(files, f"{module}.zero", scale, (lines, 1)))
    symmetric = bool((zero == 2 ** (meta.nbits - 1)).all())
    if zero.size and meta.nbits > 1 and _are_codes(zero, meta.nbits):
        name = uniform_name(meta.nbits, group, symmetric=symmetric, scale=meta.scale, signed=symmetric)
    else:
        name = Offset(meta.nbits, group, "floatzero", meta.scale).name
    return Matrix(f"{module}.weight", name, meta.shape)


def _are_codes(zero: npt.NDArray[np.float32], bits: int) -> bool:
    """Whether all zero points are whole numbers among the codes, none of them -0; the first are looked at first."""

    def are(some: npt.NDArray[np.float32]) -> bool:
        return bool(((some == np.rint(some)) & ~np.signbit(some) & (some < 2**bits)).all())

    return are(zero[:16]) and are(zero)


def _counted(matrix: Matrix, fields: Fields) -> Array:
    """Packed codes, counted from the lowest one."""
    whole = uniform(matrix.format)
    codes: Array = whole.counted(fields["codes"], matrix.shape[1]) if whole else fields["codes"]
    return codes


def _zeros(matrix: Matrix, fields: Fields, found: Offset) -> Array:
    """Zero points (rows, groups) in the type of the scales."""
    whole = uniform(matrix.format)
    if whole is None:
        zero: Array = fields["zero"]
        return zero
    numbers = whole.zeros(fields, matrix.shape[0], found.groups(matrix.shape[1])).astype(np.float32)
    if found.scale == "bf16":  # whole numbers up to 255 have all their bits in the upper half
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(UPPER_HALVES[found.scale])


def _numbers(stored: Array) -> npt.NDArray[np.float32]:
    """Stored numbers as float32; uint16 holds the upper halves of them."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _fields(matrix: Matrix, codes: Array, scale: Array, zero: Array) -> Fields:
    whole = uniform(matrix.format)
    scale = np.ascontiguousarray(scale)
    if whole is None:
        return {"codes": codes, "scale": scale, "zero": np.ascontiguousarray(zero)}
    zeros = whole.zero_fields(_numbers(zero).astype(np.uint8), matrix)
    return {"codes": whole.counted(codes, matrix.shape[1]), "scale": scale, **zeros}


def _over_each_other(codes: npt.NDArray[np.uint8], bits: int) -> Array:
    """Codes (lines, n) as words (lines / parts, n), the first part of the lines in the highest bits."""
    parts = PARTS[bits]
    height = -(-len(codes) // parts)
    whole = np.zeros((parts * height, codes.shape[1]), np.uint32)
    whole[: len(codes)] = codes
    words = np.zeros((height, codes.shape[1]), np.uint32)
    for part in range(parts):
        words |= whole[part * height : (part + 1) * height] << np.uint32(bits * (parts - 1 - part))
    return words.view(np.int32) if WORDS[bits] == "I32" else words.astype(np.uint8)


def _side_by_side(words: Array, bits: int) -> npt.NDArray[np.uint8]:
    """The same back: codes (parts * lines of words, n)."""
    parts, wide = PARTS[bits], words.view(np.uint32) if words.dtype == np.int32 else words
    shifts = (bits * (parts - 1 - part) for part in range(parts))
    return np.concatenate([(wide >> wide.dtype.type(shift) & (2**bits - 1)).astype(np.uint8) for shift in shifts])
