"""The numbers of stored fields, natively where there is a codec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Fields, Format, Shape, is_row_format
from fewbits.kernels import decode_rows, formats
from fewbits.kernels.fields import decode_fields, has_fields_codec
from fewbits.lazy import LazyModule
from fewbits.qtensor import column_order, in_order, kept_columns, of_format

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def stored_numbers(format: Format, fields: Fields, shape: Shape) -> torch.Tensor:
    """The numbers (rows, cols) float32 that the stored `fields` of a matrix of `shape` stand for."""
    kept = kept_columns(fields, shape)
    coded = in_order(_coded_numbers(format, of_format(fields), shape), column_order(fields, shape[1]))
    return kept.over(coded) if kept else coded


def _coded_numbers(format: Format, fields: Fields, shape: Shape) -> torch.Tensor:
    """Those that the codes stand for."""
    if is_row_format(format) and format.name in formats():
        return torch.from_numpy(decode_rows(format.name, np.ascontiguousarray(fields["data"]), shape[1]))
    own = {name: np.array(field) for name, field in fields.items()}  # mapped bytes are not to be written to
    if has_fields_codec(format):
        return torch.from_numpy(decode_fields(format, own, shape))
    return format.decode(*format.from_fields(own, shape))
