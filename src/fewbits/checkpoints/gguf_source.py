"""A GGUF file under the names of the model directory that it was made from: its rows back in their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Conversion, Placement, Reader, StackedTensor, StoredTensor
from fewbits.checkpoints.derived import PartTensor, ShiftedTensor, TransposedTensor
from fewbits.checkpoints.fields import PLAIN, StoredMatrix
from fewbits.checkpoints.row_tensors import RowTensor
from fewbits.errors import CheckpointError
from fewbits.formats import Fields


class GGUFMatrices:
    """The tensors of `file` under the names that `conversion`, the original directory, has for them."""

    def __init__(self, file: Reader, conversion: Conversion) -> None:
        self.path = file.path
        self.metadata: Mapping[str, Any] = {}
        present = set(file.names())
        self._tensors: dict[str, StoredMatrix | StoredTensor] = {}
        wanted = [p for p in conversion.placements if not p.computed and not p.aside]
        for placement in wanted:
            if placement.name not in present:
                raise CheckpointError(
                    f"{file.path} has no tensor {placement.name}, which the directory's configuration calls for; it "
                    "was made from another model."
                )
            for tensor in _split(placement, file.read(placement.name)):
                self._tensors[tensor.name] = tensor
        left = sorted(present - {p.name for p in conversion.placements})
        self.notes = (f"{len(left)} tensors are left out ({left[0]}, ...): the directory has none.",) if left else ()

    def names(self) -> list[str]:
        """Names in the network."""
        return list(self._tensors)

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`."""
        return self._tensors[name]


def _split(placement: Placement, tensor: StoredTensor) -> list[StoredMatrix | StoredTensor]:
    """One tensor of the file as those that the directory has, experts apart."""
    source = placement.source
    if isinstance(source, PartTensor | ShiftedTensor | TransposedTensor) or placement.whole is not None:
        raise CheckpointError(
            f"tensor {placement.name} is not in the file as the directory has it ({type(source).__name__}); a GGUF "
            "file of this architecture is not converted back: start from the original model."
        )
    if tensor.shape != source.shape:
        raise CheckpointError(
            f"tensor {placement.name} is {list(tensor.shape)} in the file and {list(source.shape)} in the directory; "
            "it was made from another model."
        )
    if isinstance(source, StackedTensor):
        rows = source.parts[0].rows
        return [
            _named(part.name, tensor, part.shape, partial(tensor.slab, n * rows, (n + 1) * rows))
            for n, part in enumerate(source.parts)
        ]
    if len(tensor.shape) == 1:
        return [_narrowed(source.in_file, tensor)]
    back = None if placement.order is None else np.argsort(placement.order)
    return [_named(source.in_file.name, tensor, source.in_file.shape, partial(_in_place, tensor, back))]


def _narrowed(source: StoredTensor, tensor: StoredTensor) -> StoredTensor:
    """A vector in the type that the directory has it in, where that says the same numbers."""
    if tensor.format != "F32":
        return replace(tensor, name=source.name)
    numbers = tensor.slab(0, tensor.rows).reshape(-1).view("<f4")
    if source.format == "BF16" and not (numbers.view("<u4") & 0xFFFF).any():
        narrow: Any = (numbers.view("<u4") >> 16).astype("<u2")
    elif source.format == "F16" and np.array_equal(numbers.astype("<f2").astype("<f4"), numbers):
        narrow = numbers.astype("<f2")
    else:
        return replace(tensor, name=source.name)
    return StoredTensor(source.name, source.format, tensor.shape, narrow.view(np.uint8))


def _in_place(tensor: StoredTensor, back: Any) -> Bytes:
    rows = tensor.slab(0, tensor.rows)
    return rows if back is None else rows[back]


def _named(name: str, tensor: StoredTensor, shape: tuple[int, ...], rows: Any) -> StoredMatrix | StoredTensor:
    if tensor.format in PLAIN:
        return RowTensor.of(name, tensor.format, shape, rows)
    size = tensor.row_bytes * (int(np.prod(shape[:-1])))

    def load() -> Fields:
        return {"data": np.ascontiguousarray(rows())}

    return StoredMatrix(name, tensor.format, shape, bytes=size, load=load)
