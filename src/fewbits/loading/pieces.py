"""What fills one parameter of a network: a matrix that may stay as it is stored, or numbers, when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from fewbits import formats, kernels
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import PLAIN, StoredMatrix
from fewbits.errors import CheckpointError
from fewbits.evaluation.decoding import decoded
from fewbits.kernels.stored import stored_numbers
from fewbits.layers.matrix import PackedMatrix

WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Plain format -> bytes per number."""

_WHOLE = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
"""Dtype of safetensors for whole numbers -> numpy's."""


@dataclass(frozen=True)
class Made:
    """Numbers that are put together of several tensors, or turned, or taken apart."""

    make: Callable[[], torch.Tensor]
    formats: frozenset[str] = frozenset()
    """What the tensors are stored in."""


Piece = StoredMatrix | StoredTensor | Made


class Lazy:
    """A piece as transformers takes tensors out of a file: there when it is looked at, and not before."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece

    def __getitem__(self, _: Any) -> torch.Tensor:
        return numbers(self._piece)


def numbers(piece: Piece) -> torch.Tensor:
    """The float32 numbers of `piece` in its own shape; whole numbers as they are."""
    if isinstance(piece, Made):
        return piece.make()
    if isinstance(piece, StoredMatrix):
        found = stored_numbers(formats.get(piece.format), piece.load(), _sides(piece)).reshape(piece.shape)
        return found.T.contiguous() if piece.transposed else found
    if piece.format in kernels.formats():
        return decoded(piece)
    if piece.format not in _WHOLE:
        raise CheckpointError(
            f"tensor {piece.name} is stored as {piece.format}, and plain tensors are read from {', '.join(WIDTHS)} and "
            "whole numbers; the directory is in a dialect that is not known, or its config.json does not say which."
        )
    return torch.from_numpy(piece.buffer.view(_WHOLE[piece.format]).reshape(piece.shape).copy())


def stays_packed(piece: StoredMatrix | StoredTensor, dtype: torch.dtype) -> bool:
    """Whether `piece` is a matrix that takes less memory as it is stored than as numbers in `dtype`."""
    if len(piece.shape) != 2:
        return False
    if piece.format in PLAIN:
        return WIDTHS[piece.format] < dtype.itemsize
    return isinstance(piece, StoredMatrix)


def packed(piece: StoredMatrix | StoredTensor) -> PackedMatrix:
    """The matrix `piece` as it is stored, in memory of its own."""
    if isinstance(piece, StoredMatrix):
        return PackedMatrix(piece.format, _sides(piece), piece.load())
    return PackedMatrix(piece.format, (piece.rows, piece.cols), {"data": piece.slab(0, piece.rows)})


def is_quantized(piece: Piece) -> bool:
    """Whether anything of it is stored in a format that is no plain number."""
    stored = piece.formats if isinstance(piece, Made) else {piece.format}
    return bool(stored - {*PLAIN, *_WHOLE})


def is_turned(piece: Piece) -> bool:
    """Whether the network has the matrix with its columns as rows."""
    return isinstance(piece, StoredMatrix) and piece.transposed


def _sides(piece: StoredMatrix) -> tuple[int, int]:
    return prod(piece.shape[:-1]), piece.shape[-1]


def bytes_of(piece: Piece) -> int:
    """Stored bytes, where they are known."""
    return 0 if isinstance(piece, Made) else int(piece.bytes)
