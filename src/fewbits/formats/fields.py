"""What the fields of a format look like on disk: codes as one string of bits per row, and numbers of 32 and 16 bits."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Bytes, Shapes
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

NUMBERS = {"f32": "float32", "f16": "float16", "bf16": "uint16"}
"""Types of stored numbers -> the numpy type that holds them; numpy has no bfloat16, so its bits are kept."""


def stored_bits(shapes: Shapes) -> int:
    """Bits of all fields together.

    >>> stored_bits({"codes": ("uint8", (2, 16)), "scale": ("float16", (2, 1))})
    288
    """
    return 8 * sum(prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes.values())


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits."""
    return -(-count * bits // 8)


def pack_bits(codes: npt.NDArray[np.uint8], bits: int) -> Bytes:
    """Codes (rows, n) as bytes (rows, bytes): code c has the bits from c * bits on, the lowest bit of byte 0 first.

    >>> pack_bits(np.array([[1, 2, 3]], np.uint8), 4)
    array([[33,  3]], dtype=uint8)
    """
    rows, count = codes.shape
    if 8 % bits == 0:
        per = 8 // bits
        whole = np.zeros((rows, -(-count // per) * per), np.uint8)
        whole[:, :count] = codes
        shifts = np.arange(per, dtype=np.uint8) * np.uint8(bits)
        packed: Bytes = np.bitwise_or.reduce(whole.reshape(rows, -1, per) << shifts, axis=-1)
        return packed
    stream = np.unpackbits(np.ascontiguousarray(codes)[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(stream.reshape(rows, -1), axis=-1, bitorder="little")


def unpack_bits(packed: Bytes, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """The first `count` codes of each row, (rows, count)."""
    rows = len(packed)
    if 8 % bits == 0:
        shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
        codes: npt.NDArray[np.uint8] = (packed[..., None] >> shifts & np.uint8(2**bits - 1)).reshape(rows, -1)
        return np.ascontiguousarray(codes[:, :count])
    stream = np.unpackbits(packed, axis=-1, count=count * bits, bitorder="little")
    return np.packbits(stream.reshape(rows, count, bits), axis=-1, bitorder="little")[..., 0]


def to_field(numbers: torch.Tensor, kind: str) -> npt.NDArray[Any]:
    """Numbers (...), float32 that `kind` holds exactly, as they lie on disk."""
    numbers = numbers.detach().cpu().contiguous()
    if kind == "bf16":
        field: npt.NDArray[Any] = numbers.bfloat16().view(torch.int16).numpy().view(np.uint16)
        return field
    return numbers.numpy().astype(NUMBERS[kind])


def from_field(field: npt.NDArray[Any], kind: str) -> torch.Tensor:
    """The float32 numbers of a field."""
    if kind == "bf16":
        return torch.from_numpy(field.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(field.astype(np.float32))
