"""The fewbits dialect of safetensors: a matrix in any format, as the fields that the format states.

A matrix NAME of a format with fields `codes` and `scale` lies in the file as NAME.codes and NAME.scale; plain numbers
lie there as NAME. The entry "fewbits" of the header's metadata is JSON that says, for every matrix, its format's name
and its shape: {"version": 1, "tensors": {NAME: {"format": "int4_g128_sym_f16", "shape": [4096, 4096]}}}. Where inputs
are to be rounded at run time it says "activation": "int8_token" too, and "outliers": 6 where six columns stay in 16
bits, as NAME.outlier_index (I32, ascending) and NAME.outlier_values (F16, rows x 6) beside the fields.
With "ordered": true NAME.column_order (I32) says which column each coded one is: groups of columns are no neighbours.
With "transposed": true the network has the matrix with its columns as rows (GPT-2's Conv1D); rows are outputs here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from fewbits import formats
from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.jsonfile import parse_object
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.safetensors import SafetensorsReader, ShardedReader
from fewbits.errors import CheckpointError, FormatError
from fewbits.formats import Fields
from fewbits.formats.base import Shapes
from fewbits.qtensor import order_shapes, outlier_shapes

KEY = "fewbits"
"""The entry of the header's metadata."""
VERSION = 1
PLAIN = ("F64", "F32", "F16", "BF16")
"""Formats whose one field is the tensor itself, under its own name."""

DTYPES: Mapping[str, str] = {
    "uint8": "U8",
    "int32": "I32",
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "uint16": "BF16",
}
"""numpy type of a field -> safetensors dtype; numpy has no bfloat16, so fields hold its bits as uint16."""


def field_name(tensor: str, field: str) -> str:
    """The name of a field in the file."""
    return f"{tensor}.{field}"


@dataclass(frozen=True)
class Matrix:
    """What is stated of one matrix: its format, its shape, how its inputs are rounded, columns kept in 16 bits."""

    name: str
    format: str
    shape: tuple[int, ...]
    activation: str | None = None
    outliers: int = 0
    transposed: bool = False
    """Whether the network has its columns as rows."""
    ordered: bool = False
    """Whether columns have an order of their own (act-order)."""

    @property
    def shapes(self) -> Shapes:
        """Field -> numpy type and shape; raises FormatError where the format is unknown or does not fit."""
        rows, cols = prod(self.shape[:-1]), self.shape[-1]
        more = {**outlier_shapes(rows, self.outliers), **order_shapes(cols, ordered=self.ordered)}
        return {**formats.get(self.format).shapes(rows, cols), **more}


@dataclass(frozen=True)
class StoredMatrix(Matrix):
    """One matrix as it lies on disk."""

    bytes: int = 0
    """Of all that holds it."""
    load: Callable[[], Fields] = dict
    """Its fields by name: mapped views, or what a dialect makes of them."""


class MatrixReader(Protocol):
    """A checkpoint as matrices with fields and plain tensors."""

    path: Path
    metadata: Mapping[str, Any]

    def names(self) -> list[str]:
        """All names."""

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`."""


class FieldsReader:
    """Safetensors files in the fewbits dialect, checked completely against the formats they name."""

    dialect_name = KEY

    def __init__(self, file: SafetensorsReader | ShardedReader) -> None:
        self.path: Path = file.path
        self.metadata = file.metadata
        self._file = file
        self._stated = _stated(file)
        self._matrices = {name: self._matrix(name) for name in self._stated}
        owner = {field_name(m.name, f): m.name for m in self._matrices.values() for f in m.shapes}
        self._names = list(dict.fromkeys(owner.get(name, name) for name in file.names()))

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return self._names

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        return self._matrices[name] if name in self._matrices else self._file.read(name)

    def _matrix(self, name: str) -> StoredMatrix:
        raw = self._stated[name]
        where = f"tensor {quoted(name)} in {self.path}"
        if not isinstance(raw, dict) or not isinstance(raw.get("format"), str) or not _is_shape(raw.get("shape")):
            raise CheckpointError(f"{where} states no format and shape; the file is damaged.")
        activation, outliers = raw.get("activation"), raw.get("outliers", 0)
        if type(outliers) is not int or not 0 <= outliers <= raw["shape"][-1] or not isinstance(activation, str | None):
            raise CheckpointError(f"{where} states no number of outliers or no activation; the file is damaged.")
        turned, ordered = bool(raw.get("transposed", False)), bool(raw.get("ordered", False))
        stated = Matrix(name, raw["format"], tuple(raw["shape"]), activation, outliers, turned, ordered)
        try:
            shapes = stated.shapes
        except FormatError as error:
            raise CheckpointError(f"{where} cannot be read: {error}; a newer fewbits may know it.") from error
        fields = {field: self._field(name, field, *each) for field, each in shapes.items()}
        size = sum(field.bytes for field in fields.values())

        def load() -> Fields:
            return {field: each.buffer.view(shapes[field][0]).reshape(each.shape) for field, each in fields.items()}

        return StoredMatrix(**vars(stated), bytes=size, load=load)

    def _field(self, tensor: str, field: str, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
        name = field_name(tensor, field)
        if name not in self._file.names():
            raise CheckpointError(f"{self.path} holds no {quoted(name)}, which its tensor needs; the file is damaged.")
        stored = self._file.read(name)
        if stored.format != DTYPES[dtype] or stored.shape != shape:
            raise CheckpointError(
                f"{quoted(name)} in {self.path} is {stored.format} {list(stored.shape)} and should be {DTYPES[dtype]} "
                f"{list(shape)}; the file is damaged."
            )
        return stored


def is_fields_file(file: Reader) -> TypeGuard[SafetensorsReader | ShardedReader]:
    """Whether the header says that the file is in the fewbits dialect; of several, that of each."""
    if isinstance(file, ShardedReader):
        return all(KEY in shard.metadata for shard in file.shards)
    return isinstance(file, SafetensorsReader) and KEY in file.metadata


def _is_shape(raw: object) -> bool:
    return isinstance(raw, list) and len(raw) >= 2 and all(type(n) is int and n > 0 for n in raw)


def _stated(file: SafetensorsReader | ShardedReader) -> dict[str, Any]:
    shards = file.shards if isinstance(file, ShardedReader) else (file,)
    return {name: said for shard in shards for name, said in _stated_in(shard).items()}


def _stated_in(file: Reader) -> dict[str, Any]:
    where = f"the metadata of {file.path}"
    stated = parse_object(file.metadata[KEY].encode("utf-8", "surrogatepass"), where)
    if stated.get("version") != VERSION:
        raise CheckpointError(
            f"{file.path} is of version {quoted(stated.get('version'))} of the fewbits dialect and this fewbits reads "
            f"{VERSION}; install a newer one."
        )
    tensors = stated.get("tensors")
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{where} states no tensors; the file is damaged.")
    return tensors


def statement(matrices: Iterable[Matrix]) -> str:
    """The metadata entry for matrices."""
    return json.dumps({"version": VERSION, "tensors": {m.name: _said_of(m) for m in matrices}})


def _said_of(matrix: Matrix) -> dict[str, Any]:
    said: dict[str, Any] = {"format": matrix.format, "shape": list(matrix.shape)}
    more = {"activation": matrix.activation, "outliers": matrix.outliers, "transposed": matrix.transposed}
    more["ordered"] = matrix.ordered
    return said | {key: value for key, value in more.items() if value}
