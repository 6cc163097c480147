"""A matrix in a format and back while it is trained: native codecs on a CPU, torch elsewhere; the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewbits import kernels
from fewbits.formats import Fields, Format, Params, is_row_format, row_bytes
from fewbits.formats.base import Bytes
from fewbits.kernels.fields import encode_fields, has_fields_codec
from fewbits.kernels.stored import stored_numbers
from fewbits.qtensor import QTensor
from fewbits.workers import Workers, row_slabs

PARALLEL = 1 << 18
"""Numbers from which on a matrix is worth several threads."""


@dataclass(frozen=True)
class Coded:
    """What is stored of a matrix, and the numbers (rows, cols) float32 that come back."""

    fields: Fields
    value: torch.Tensor


def coded(format: Format, w: torch.Tensor) -> Coded:
    """`w` (rows, cols) under the format's best parameters, its nearest codes, as `quantize` stores it without text.

    >>> from fewbits import formats
    >>> coded(formats.get("Q8_0"), torch.full((1, 32), 0.5)).value[0, :2].round(decimals=3)
    tensor([0.5000, 0.5000])
    """
    w = w.detach().float()
    if w.device.type == "cpu" and is_row_format(format) and format.name in kernels.formats():
        return _row_by_row(format, w.contiguous())
    if w.device.type == "cpu" and has_fields_codec(format):
        fields = encode_fields(format, _bytes(w.contiguous()), "F32").fields
        return Coded(fields, stored_numbers(format, fields, (len(w), w.shape[1])))
    q = QTensor(format, *_in_torch(format, w))
    return Coded(q.fields(), q.dequantize())


def _row_by_row(format: Format, w: torch.Tensor) -> Coded:
    rows, cols = w.shape
    source, size, value = _bytes(w), row_bytes(format, cols), torch.empty(rows, cols)
    stored = torch.empty(rows, size, dtype=torch.uint8).numpy()

    def encode(slab: tuple[int, int]) -> None:
        own = slice(*slab)
        stored[own] = kernels.encode_rows(format.name, source[own], "F32", size).stored
        kernels.decode_rows(format.name, stored[own], cols, into=value.numpy()[own])

    threads = torch.get_num_threads()
    if threads == 1 or w.numel() < PARALLEL:
        encode((0, rows))
    else:
        with Workers(threads) as workers:
            for _ in workers.in_order(encode, row_slabs(rows, 16 * cols)):
                pass
    return Coded({"data": stored}, value)


def _in_torch(format: Format, w: torch.Tensor) -> tuple[torch.Tensor, Params]:
    like = format.prepare([w]) if format.rows != 1 else None
    params = format.fit(w, like=like)
    return format.encode(w, params), params


def _bytes(w: torch.Tensor) -> Bytes:
    raw: Bytes = w.numpy().view("uint8")
    return raw
