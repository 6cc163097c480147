"""Native codecs for who holds tensors and formats (formats/overrides.py): fits, codes, columns under error feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.formats.base import Fields, Format, Params, is_row_format
from fewbits.kernels import Bytes, encode_rows, formats, grouped
from fewbits.kernels.feedback import add_product, round_columns
from fewbits.kernels.fields import encode_fields, has_fields_codec
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

__all__ = ["add_product", "encode", "fit", "round_columns"]


def fit(format: Format, w: torch.Tensor, importance: torch.Tensor) -> Params | None:
    """Parameters for `w` (rows, cols) float32, errors weighed by `importance` (cols,); None without a codec."""
    if grouped.has_codec(format) and format.rows == 1:
        return grouped.fit(format, _slab(w), importance.numpy())
    found = encode(format, w, importance, None)
    return found[1] if found else None


def encode(
    format: Format, w: torch.Tensor, importance: torch.Tensor, like: Params | None
) -> tuple[torch.Tensor, Params] | None:
    """Codes and parameters for `w`; None without a codec."""
    fields = _fields(format, w, importance, like)
    return None if fields is None else format.from_fields(fields, (len(w), w.shape[1]))


def _fields(format: Format, w: torch.Tensor, importance: torch.Tensor, like: Params | None) -> Fields | None:
    if is_row_format(format) and format.name in formats():
        size = format.bits(1, w.shape[1]) // 8
        return {"data": encode_rows(format.name, _slab(w), "F32", size, importance=importance.numpy()).stored}
    if has_fields_codec(format):
        return encode_fields(format, _slab(w), "F32", like=like, importance=importance.numpy()).fields
    return None


def _slab(w: torch.Tensor) -> Bytes:
    """Rows as the codecs read them: the bytes of their numbers."""
    numbers: np.ndarray[Any, Any] = w.contiguous().numpy()
    return numbers.view(np.uint8)
