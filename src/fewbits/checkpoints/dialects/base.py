"""The dialect protocol: how the fields of a format lie in safetensors for a reader that is not ours.

A dialect packs the stored codes, scales and zero points of one matrix into the tensors that its readers expect, and
takes them apart again. Nothing is rounded: what goes in comes out, bit by bit. What a dialect cannot hold it refuses
with a sentence, before any work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

Array = npt.NDArray[Any]
Slots = dict[str, tuple[str, tuple[int, ...]]]
"""Name in the file -> safetensors dtype and shape."""
Arrays = dict[str, Array]
"""Name in the file -> numbers; BF16 and F8 as the bits of them."""
Configuration = Mapping[str, Any]
"""`quantization_config` of a config.json."""

WEIGHT = ".weight"
"""What a matrix's name ends in; dialects put their own endings in its place."""

WIDTHS: Mapping[str, str] = {
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "uint8",
    "F8_E5M2": "uint8",
    "F16": "float16",
    "BF16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
}
"""Dtype of safetensors -> the numpy type that holds its bits."""


class Files(Protocol):
    """The tensors of a checkpoint by name."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What headers state beside the tensors."""

    def names(self) -> list[str]:
        """All names."""

    def read(self, name: str) -> StoredTensor:
        """The tensor of that name."""


class Dialect(Protocol):
    """One way to lay a quantized matrix into safetensors, as certain readers expect it."""

    @property
    def name(self) -> str:
        """The registry's name."""

    @property
    def readers(self) -> str:
        """Who loads it."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of config.json that state the configuration."""

    @property
    def inputs(self) -> frozenset[str]:
        """Ways to round inputs that it can state."""

    @property
    def holds_order(self) -> bool:
        """Whether groups may have columns that are no neighbours."""

    def refuses(self, matrix: Matrix) -> str | None:
        """Why `matrix` cannot be held, as a phrase that follows its name; None where it can."""

    def slots(self, matrix: Matrix) -> Slots:
        """The tensors that hold `matrix`."""

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The stored fields of all of `matrix` as those tensors."""

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """`quantization_config` for `matrices`, where the matrices named in `plain` stay as they are."""

    def recognizes(self, configuration: Configuration) -> bool:
        """Whether a checkpoint with this `quantization_config` is in this dialect."""

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Name -> what the checkpoint holds in this dialect; raises CheckpointError where it contradicts itself."""

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """The fields of the matrix's format; raises CheckpointError where the file does not hold it."""


@runtime_checkable
class InHeaders(Protocol):
    """A dialect whose readers learn from the header of each file what its tensors are."""

    def header(self, tensors: Sequence[Matrix], plain: Sequence[str], dtype: str) -> dict[str, str]:
        """Entries for matrices `tensors` beside tensors named `plain` of a model that computes in torch's `dtype`."""


def stem(name: str) -> str:
    """The name of the module that a matrix belongs to.

    >>> stem("model.layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj'
    """
    return name.removesuffix(WEIGHT)


def sides(files: Files, name: str) -> tuple[int, int]:
    """The two sides of the tensor `name`; raises CheckpointError where it has more or less."""
    shape = files.read(name).shape
    if len(shape) != 2:
        raise CheckpointError(
            f"tensor {quoted(name)} is {quoted(list(shape))}, which has {len(shape)} sides and should have two; the "
            "file does not hold what its configuration says."
        )
    return shape[0], shape[1]


def array(files: Files, name: str, dtype: str | tuple[str, ...], shape: tuple[int, ...]) -> Array:
    """The tensor `name` as numbers; raises CheckpointError unless it is there, of that dtype and shape."""
    stored = files.read(name)
    allowed = (dtype,) if isinstance(dtype, str) else dtype
    if stored.format not in allowed or stored.shape != shape:
        raise CheckpointError(
            f"tensor {name} is {stored.format} {list(stored.shape)} and should be {' or '.join(allowed)} "
            f"{list(shape)}; the file does not hold what its configuration says."
        )
    found: Array = stored.buffer.view(WIDTHS[stored.format]).reshape(shape)
    return found


def one_of(matrices: Sequence[Matrix], dialect: str) -> str:
    """The one format of all `matrices`; raises CheckpointError where they have several."""
    formats = sorted({matrix.format for matrix in matrices})
    if len(formats) > 1:
        other = next(m for m in matrices if m.format != matrices[0].format)
        raise CheckpointError(
            f"the {dialect} dialect states one format for all matrices, and {matrices[0].name} is "
            f"{matrices[0].format} where {other.name} is {other.format}; give them one, or take --dialect fewbits."
        )
    return formats[0]
