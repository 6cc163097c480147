"""Products of inputs and a stored matrix on the CPU: with packed codes where a type packs them, from numbers elsewhere.

What comes out for one token depends on neither threads nor other tokens, but for inputs that are split by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fewbits import activations
from fewbits.activations import Activation, outlying
from fewbits.checkpoints.fields import PLAIN
from fewbits.errors import RecipeError
from fewbits.kernels.module import native_module
from fewbits.layers.stored import StoredWeight
from fewbits.qtensor import Outliers, column_order, kept_columns

WIDE, EXACT = "int16_group", "exact"
"""Inputs as whole numbers of 16 bits in groups of 32, which is what matrices of recipes for weights alone get, and as
the floats that they are."""

KERNELS: Mapping[str, str] = MappingProxyType(
    {
        WIDE: "group16",
        "int8_group": "group8",
        "int8_token": "token8",
        "int8_token_asym": "token8_zero",
        "int8_token_split": "token8",
    }
)
"""Inputs that multiply packed codes -> what the kernel calls them."""


def rounding_of(inputs: str) -> Activation | None:
    """How inputs are rounded before a product of floats; None where they are taken as they are.

    Raises RecipeError for a name that is not known.
    """
    return None if inputs in (WIDE, EXACT) else activations.get(inputs)


@cache
def require_known(inputs: str) -> None:
    """Raise RecipeError unless `inputs` is a way to take inputs.

    >>> require_known("int9_token")
    Traceback (most recent call last):
    fewbits.errors.RecipeError: inputs are int16_group, exact or a rounding of activations, not 'int9_token'.
    """
    if inputs not in (WIDE, EXACT, *activations.ACTIVATIONS):
        raise RecipeError(f"inputs are {WIDE}, {EXACT} or a rounding of activations, not {inputs!r}.")


@dataclass(frozen=True)
class Product:
    """A matrix (rows, cols), ready to be multiplied."""

    weight: StoredWeight
    type: str
    """What rows are packed as; "" where they are not."""
    packed: Any
    """The native matrix, or None."""
    order: torch.Tensor | None
    """Which column each coded one is."""
    kept: Outliers | None

    @staticmethod
    def of(weight: StoredWeight, threads: int) -> Product:
        """Packs rows where products can; raises FormatError where fields do not belong to the matrix."""
        share_threads()
        rows, packed = weight.packed_rows(), None
        if rows is not None:
            packed = native_module().PackedLayer(rows.type, rows.data, weight.shape[1], threads)
        order = column_order(weight.fields, weight.shape[1])
        return Product(weight, rows.type if rows else "", packed, order, kept_columns(weight.fields, weight.shape))

    def __call__(self, x: torch.Tensor, inputs: str, bias: torch.Tensor | None, threads: int) -> torch.Tensor:
        """Outputs (tokens, rows) float32 for `x` (tokens, cols) float32, plus `bias` (rows,) float32."""
        if self.packed is None or inputs not in KERNELS:
            return self._floats(x, inputs, bias, threads)
        if self.kept is None:
            return self._whole(x, inputs, bias, threads)
        rest = self._whole(x.index_fill(1, self.kept.index, 0), inputs, bias, threads)
        values = self.kept.values.view(torch.int16).numpy().view(np.uint8)
        return rest + _plain("F16", values, x[:, self.kept.index], None, threads)

    def _whole(self, x: torch.Tensor, inputs: str, bias: torch.Tensor | None, threads: int) -> torch.Tensor:
        rounding = rounding_of(inputs)
        apart = outlying(x) if rounding and rounding.splits else None
        if apart is None:
            return self._kernel(x, KERNELS[inputs], bias, threads)
        few, wide = x.index_fill(1, apart, 0), torch.zeros_like(x).index_copy(1, apart, x[:, apart])
        return self._kernel(few, KERNELS[inputs], bias, threads) + self._kernel(wide, KERNELS[WIDE], None, threads)

    def _kernel(self, x: torch.Tensor, kernel: str, bias: torch.Tensor | None, threads: int) -> torch.Tensor:
        out = torch.empty(len(x), self.weight.shape[0])
        ordered = x if self.order is None else x[:, self.order]
        self.packed.multiply(kernel, _array(ordered), None if bias is None else _array(bias), out.numpy(), threads)
        return out

    def _floats(self, x: torch.Tensor, inputs: str, bias: torch.Tensor | None, threads: int) -> torch.Tensor:
        rounding = rounding_of(inputs)
        few = rounding.rounded(x, self.kept.index if self.kept else None) if rounding else x
        if self.weight.format.name in PLAIN[1:]:
            return _plain(self.weight.format.name, self.weight.fields["data"], few, bias, threads)
        out = torch.empty(len(x), self.weight.shape[0])
        for start, stop, numbers in self.weight.slabs():
            own = None if bias is None else bias[start:stop]
            out[:, start:stop] = _plain("F32", numbers.numpy().view(np.uint8), few, own, threads)
        return out


@cache
def share_threads() -> bool:
    """Let products run in the threads that torch has by GCC's OpenMP; where it has others, they have their own."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return any(native_module().use_openmp_of(str(path)) for path in libraries)


def _array(x: torch.Tensor) -> Any:
    return x.contiguous().numpy()


def _plain(numbers: str, rows: Any, x: torch.Tensor, bias: torch.Tensor | None, threads: int) -> torch.Tensor:
    """Outputs (tokens, rows) of rows of plain numbers (rows, bytes)."""
    out = torch.empty(len(x), len(rows))
    data, own = np.ascontiguousarray(rows), None if bias is None else _array(bias)
    native_module().multiply_rows(numbers, data, _array(x), own, out.numpy(), threads)
    return out
