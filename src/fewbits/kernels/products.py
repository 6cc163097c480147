"""Sums of products of columns, natively, where the processor multiplies bfloat16 by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def add_products(x: torch.Tensor, columns: slice, sums: torch.Tensor) -> bool:
    """Add x^T x of `x` (tokens, cols) to `columns` of `sums` (cols, cols) float32, down to the diagonal.

    Products of bfloat16 are exact and are summed in float32, in an order that does not depend on `columns`. Below the
    diagonal anything may be added. False, and nothing is done, where no kernel knows these numbers.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or sums.device.type != "cpu":
        return False
    bits = x.contiguous().view(torch.uint16).numpy()
    done: bool = native_module().add_products(bits, columns.start, min(columns.stop, x.shape[1]), sums.numpy())
    return done
