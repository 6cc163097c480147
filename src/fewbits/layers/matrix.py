"""A stored matrix inside a torch module: fields as buffers, numbers when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fewbits import formats
from fewbits.formats import Fields
from fewbits.kernels.stored import stored_numbers
from fewbits.layers.ops import forget, linear_floats, multiply
from fewbits.layers.products import rounding_of
from fewbits.layers.stored import StoredWeight
from fewbits.qtensor import kept_columns


class PackedMatrix(torch.nn.Module):
    """A matrix (rows, cols) as the stored fields of a format, each a buffer; nothing of it is trained.

    Beside the format's own there may be those of columns kept in 16 bits, and of columns in an order of their own.

    Moving the module moves fields; converting it (`half`, `bfloat16`) leaves them as they are.

    >>> from fewbits.qtensor import QTensor
    >>> format, w = formats.get("int8_row_sym"), torch.tensor([[0.5, -1.0]])
    >>> params = format.fit(w)
    >>> matrix = PackedMatrix(format.name, (1, 2), QTensor(format, format.encode(w, params), params).fields())
    >>> bool((matrix.half().numbers() - w).abs().max() < 0.005)
    True
    """

    def __init__(self, format_name: str, shape: tuple[int, int], fields: Fields) -> None:
        super().__init__()
        self.format = format_name
        self.shape = shape
        self.fields = tuple(fields)
        for name, field in fields.items():
            self.register_buffer(name, _as_buffer(field))

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def tensors(self) -> list[torch.Tensor]:
        """The fields as buffers, in the order of their names."""
        return [self.get_buffer(name) for name in self.fields]

    def weight(self) -> StoredWeight:
        """The matrix outside of its module."""
        return StoredWeight.of(self.format, self.shape, dict(zip(self.fields, self.tensors(), strict=True)))

    def stored(self) -> Fields:
        """The fields by name, as they lie on disk."""
        return self.weight().fields

    def numbers(self) -> torch.Tensor:
        """The numbers (rows, cols) float32 that are stored, on the device of the fields."""
        device = self.get_buffer(self.fields[0]).device
        return stored_numbers(formats.get(self.format), self.stored(), self.shape).to(device)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows `index` (n,) of the numbers, (n, cols) float32; only they are decoded where rows share nothing."""
        weight = self.weight()
        if not weight.apart:
            return self.numbers()[index]
        place = index.cpu().numpy()
        fields = {name: np.ascontiguousarray(field[place]) for name, field in weight.fields.items()}
        return stored_numbers(weight.format, fields, (len(place), self.shape[1])).to(index.device)

    def multiply(self, x: torch.Tensor, inputs: str, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs (..., rows) for `x` (..., cols), taken as `inputs` says (products.py), in the type of `x`."""
        return multiply(x, bias, self.tensors(), self.format, ",".join(self.fields), *self.shape, inputs)

    def multiply_floats(self, x: torch.Tensor, inputs: str, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same by products of floats in the type of `x`, the matrix decoded tile by tile: for many tokens.

        Inputs of 16 bits are as they are here; gradients pass roundings as if there were none.
        """
        rounding = rounding_of(inputs)
        if rounding is not None:
            kept = kept_columns(self.stored(), self.shape)
            x = rounding.rounded(x.detach(), kept.index if kept else None).to(x.dtype) + (x - x.detach())
        return linear_floats(x, bias, self.tensors(), self.format, ",".join(self.fields), *self.shape)

    def forget(self) -> None:
        """Let go of what was made for this processor; it is made again when it is needed."""
        forget(self.tensors())

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> PackedMatrix:
        before = {name: self.get_buffer(name) for name in self.fields}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, field in before.items():
            now = self.get_buffer(name)
            if now.dtype != field.dtype:  # scales are what they are, whatever the network is computed in
                setattr(self, name, field.to(now.device))
        return self

    def extra_repr(self) -> str:
        """Format and shape."""
        return f"{self.format}, {self.shape[0]} x {self.shape[1]}"


def _as_buffer(field: Any) -> torch.Tensor:
    """A field as a tensor of its own; bits of bfloat16, which numpy holds as uint16, as int16."""
    own = np.array(field)
    return torch.from_numpy(own.view(np.int16) if own.dtype == np.uint16 else own)
