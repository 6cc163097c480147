"""Integer formats as dialects speak of them: bits, columns of a group, symmetry, the type of scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewbits import formats
from fewbits.checkpoints.dialects.base import Files
from fewbits.checkpoints.fields import Matrix
from fewbits.errors import CheckpointError, FormatError
from fewbits.formats import Fields
from fewbits.formats.base import Bytes
from fewbits.formats.fields import pack_bits, unpack_bits
from fewbits.formats.integers import Integer

SCALES = {"F16": "f16", "BF16": "bf16", "F32": "f32"}
"""Dtype of safetensors -> the word of a format's name."""
SIXTEEN = ("f16", "bf16")
DTYPES = {word: dtype for dtype, word in SCALES.items()}


@dataclass(frozen=True)
class Uniform:
    """w = scale * (code - zero), one scale per group of columns, or per row or tensor where `group` is 0."""

    bits: int
    group: int
    symmetric: bool
    signed: bool
    restricted: bool
    scale: str
    per_tensor: bool = False

    @property
    def middle(self) -> int:
        """The code of 0 of a symmetric matrix, counted from the lowest one."""
        return int(2 ** (self.bits - 1))

    def groups(self, cols: int) -> int:
        """Scales of a row."""
        return cols // self.group if self.group else 1

    def counted(self, packed: Bytes, count: int) -> Bytes:
        """Packed codes (rows, bytes) of `count` per row, counted from the lowest one; and back to stored ones."""
        if not self.signed:
            return packed
        mask = pack_bits(np.full((1, count), self.middle, np.uint8), self.bits)
        return np.bitwise_xor(packed, mask)

    def zeros(self, fields: Fields, rows: int, groups: int) -> npt.NDArray[np.uint8]:
        """Zero points (rows, groups), counted from the lowest code."""
        if self.symmetric:
            return np.full((rows, groups), self.middle, np.uint8)
        return unpack_bits(self.counted(fields["zero"], groups), self.bits, groups)

    def zero_fields(self, zeros: npt.NDArray[np.uint8], matrix: Matrix) -> Fields:
        """The field of zero points (rows, groups); none for a symmetric format, whose zero points are all the middle.

        Raises CheckpointError where they are not.
        """
        if not self.symmetric:
            return {"zero": self.counted(pack_bits(np.ascontiguousarray(zeros), self.bits), zeros.shape[1])}
        if not (zeros == self.middle).all():
            raise CheckpointError(
                f"tensor {matrix.name} has zero points other than {self.middle}, and its configuration says that it "
                "is symmetric; the file is damaged."
            )
        return {}


def uniform(format_name: str) -> Uniform | None:
    """What the format called `format_name` is, if it is one of whole numbers with plain scales.

    >>> uniform("int4_g128_sym_f16")
    Uniform(bits=4, group=128, symmetric=True, signed=True, restricted=False, scale='f16', per_tensor=False)
    >>> uniform("nf4_g64"), uniform("Q4_K")
    (None, None)
    """
    try:
        found = formats.get(format_name)
    except FormatError:
        return None
    if not isinstance(found, Integer) or found.double or found.scope.rows > 1 or found.code_bits == 1:
        return None
    each = found.scope
    return Uniform(
        found.code_bits, each.span, found.symmetric, found.signed, found.restricted, found.scale, each.rows == 0
    )


def uniform_of(matrix: Matrix) -> Uniform:
    """The facts of a matrix's format; raises CheckpointError where it is none of whole numbers."""
    found = uniform(matrix.format)
    if found is None:
        raise CheckpointError(f"tensor {matrix.name} is said to be {matrix.format}, which is no format; it is damaged.")
    return found


def scale_type(files: Files, name: str) -> str:
    """The word for the type of the 16-bit scales `name`; raises CheckpointError where they are of another type."""
    dtype = files.read(name).format
    if SCALES.get(dtype) not in SIXTEEN:
        raise CheckpointError(f"tensor {name} is {dtype} and should be F16 or BF16; the file is damaged.")
    return SCALES[dtype]


def uniform_name(bits: int, group: int, *, symmetric: bool, scale: str, signed: bool = True) -> str:
    """The name of the format with these facts; `group` 0 is a scale per row.

    >>> uniform_name(4, 128, symmetric=True, scale="f16"), uniform_name(8, 0, symmetric=True, scale="f32")
    ('int4_g128_sym_f16', 'int8_row_sym')
    """
    kind, scope = f"{'' if signed else 'u'}int{bits}", f"g{group}" if group else "row"
    words = [kind, scope, "sym" if symmetric else "asym"]
    return "_".join(words + ([] if scale == "f32" else [scale]))
