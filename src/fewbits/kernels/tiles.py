"""Parts of stored matrices as numbers: any rows and columns of most formats, by all threads, into memory of the caller.

Products that are worth a decoding (many tokens at a time, as in training) take their weights from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.formats.base import Fields, Format, Shape, check_fields, is_row_format
from fewbits.kernels import formats, give_points, grouped
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Read = Callable[[tuple[int, int], "torch.Tensor", int], None]
"""First row and column, the tensor (rows, cols), float32 or bfloat16, that gets the numbers from there, threads."""


def tile_reader(format: Format, fields: Fields, shape: Shape, *, isa: str = "") -> Read | None:
    """What reads parts of the coded matrix of `shape`; None where a format has no native reader of parts.

    Columns begin and end with whole spans. Numbers of bfloat16 are those of float32, rounded to the nearest. They
    depend on neither threads nor the instruction set. Raises FormatError where fields do not belong to the matrix.

    >>> from fewbits import formats
    >>> q8, w = formats.get("Q8_0"), torch.arange(64.0).reshape(1, 64)
    >>> params = q8.fit(w)
    >>> data, tile = q8.pack(q8.encode(w, params), params), torch.empty(1, 32, dtype=torch.bfloat16)
    >>> tile_reader(q8, {"data": data}, (1, 64))((0, 32), tile, 1)
    >>> tile[0, :3]
    tensor([32.2500, 33.2500, 34.2500], dtype=torch.bfloat16)
    """
    if is_row_format(format) and format.name in formats():
        return _of_rows(format, fields, isa)
    if grouped.has_codec(format):
        return _of_groups(format, fields, shape, isa)
    return None


def _of_rows(format: Format, fields: Fields, isa: str) -> Read:
    give_points(format.name)
    stored = np.ascontiguousarray(fields["data"])

    def read(first: tuple[int, int], out: torch.Tensor, threads: int) -> None:
        native_module().tile_of_rows(format.name, stored, first, _array(out), threads, isa)

    return read


def _of_groups(format: Format, fields: Fields, shape: Shape, isa: str) -> Read:
    check_fields(format.name, fields, format.shapes(*shape))
    own = grouped.as_stored(format, fields)

    def read(first: tuple[int, int], out: torch.Tensor, threads: int) -> None:
        coding = grouped.native_coding(format, fields, shape[1])  # cached there, and let go of when the program ends
        native_module().tile_of_groups(coding, own, shape[1], first, _array(out), threads, isa)

    return read


def _array(out: torch.Tensor) -> np.ndarray[Any, Any]:
    """The memory of a tensor; numpy has no bfloat16, so its bits."""
    found: np.ndarray[Any, Any] = (out.view(torch.uint16) if out.dtype == torch.bfloat16 else out).numpy()
    return found
