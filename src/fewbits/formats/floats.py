"""Plain floating-point numbers: F64, F32, F16 and BF16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.grids import FloatGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class Float(GridCodec):
    """w = code: one number after another, rounded to nearest even; codes are the numbers in their own type.

    A number beyond `largest` would become infinite and is refused before it is written.

    >>> import torch
    >>> F16.decode(F16.encode(torch.tensor([[0.1]]), Params({})), Params({}))
    tensor([[0.1000]])
    """

    name: str
    dtype_name: str
    span_bytes: int
    largest: float
    error_bound: float
    error_floor: float
    source: str
    span: int = 1
    rows: int = 1
    vector: int = 1
    equation: str = "w = code"
    layout: str = "one little-endian number per column"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the codes."""
        dtype: torch.dtype = getattr(torch, self.dtype_name)
        return dtype

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """A plain number has no parameters."""
        return Params({})

    def grid(self, params: Params, cols: slice | torch.Tensor) -> FloatGrid:
        """The numbers of the type, the same in every column."""
        return FloatGrid(self.dtype)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        packed: Bytes = codes.cpu().contiguous().view(torch.uint8).numpy()
        return packed

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) in the type; there are no parameters."""
        return torch.from_numpy(np.ascontiguousarray(packed).copy()).view(self.dtype), Params({})


_IEEE = "IEEE 754-2019"
F64 = Float("F64", "float64", 8, 3.4028234663852886e38, 0.0, 0.0, f"{_IEEE}, binary64")
F32 = Float("F32", "float32", 4, 3.4028234663852886e38, 0.0, 0.0, f"{_IEEE}, binary32")
F16 = Float("F16", "float16", 2, 65504.0, 2.0**-11, 2.0**-25, f"{_IEEE}, binary16")
BF16 = Float("BF16", "bfloat16", 2, 3.3895313892515355e38, 2.0**-8, 2.0**-134, "bfloat16, the upper half of binary32")
