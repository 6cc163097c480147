"""The fewbits dialect of safetensors: a matrix in any format, as the fields that the format states.

A matrix NAME of a format with fields `codes` and `scale` lies in the file as NAME.codes and NAME.scale; plain numbers
lie there as NAME. The entry "fewbits" of the header's metadata is JSON that says, for every matrix, its format's name
and its shape: {"version": 1, "tensors": {NAME: {"format": "int4_g128_sym_f16", "shape": [4096, 4096]}}}. With
"transposed": true the network has the matrix with its columns as rows (GPT-2's Conv1D); rows are outputs here always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.jsonfile import parse_object
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import CheckpointError, FormatError
from fewbits.formats import Fields

KEY = "fewbits"
"""The entry of the header's metadata."""
VERSION = 1
PLAIN = ("F64", "F32", "F16", "BF16")
"""Formats whose one field is the tensor itself, under its own name."""

DTYPES: Mapping[str, str] = {"uint8": "U8", "float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16"}
"""numpy type of a field -> safetensors dtype; numpy has no bfloat16, so fields hold its bits as uint16."""


def field_name(tensor: str, field: str) -> str:
    """The name of a field in the file."""
    return f"{tensor}.{field}"


@dataclass(frozen=True)
class StoredMatrix:
    """One matrix as it lies on disk; `fields` are mapped views."""

    name: str
    format: str
    shape: tuple[int, ...]
    fields: Fields
    transposed: bool = False
    """The network has its columns as rows."""

    @property
    def bytes(self) -> int:
        """Bytes of all fields."""
        return sum(field.nbytes for field in self.fields.values())


class FieldsReader:
    """A safetensors file in the fewbits dialect, checked completely against the formats it names."""

    def __init__(self, file: SafetensorsReader) -> None:
        self.path: Path = file.path
        self.metadata = file.metadata
        self._file = file
        self._stated = _stated(file)
        self._matrices = {name: self._matrix(name) for name in self._stated}
        known = {field_name(m.name, f) for m in self._matrices.values() for f in m.fields}
        self._plain = [name for name in file.names() if name not in known]

    def names(self) -> list[str]:
        """Names of all tensors, matrices first."""
        return [*self._matrices, *self._plain]

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        return self._matrices[name] if name in self._matrices else self._file.read(name)

    def _matrix(self, name: str) -> StoredMatrix:
        raw = self._stated[name]
        where = f"tensor {quoted(name)} in {self.path}"
        if not isinstance(raw, dict) or not isinstance(raw.get("format"), str) or not _is_shape(raw.get("shape")):
            raise CheckpointError(f"{where} states no format and shape; the file is damaged.")
        rows, cols = int(np.prod(raw["shape"][:-1])), raw["shape"][-1]
        try:
            shapes = formats.get(raw["format"]).shapes(rows, cols)
        except FormatError as error:
            raise CheckpointError(f"{where} cannot be read: {error}; a newer fewbits may know it.") from error
        fields = {field: self._field(name, field, *stated) for field, stated in shapes.items()}
        return StoredMatrix(name, raw["format"], tuple(raw["shape"]), fields, bool(raw.get("transposed", False)))

    def _field(self, tensor: str, field: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        name = field_name(tensor, field)
        if name not in self._file.names():
            raise CheckpointError(f"{self.path} holds no {quoted(name)}, which its tensor needs; the file is damaged.")
        stored = self._file.read(name)
        if stored.format != DTYPES[dtype] or stored.shape != shape:
            raise CheckpointError(
                f"{quoted(name)} in {self.path} is {stored.format} {list(stored.shape)} and should be {DTYPES[dtype]} "
                f"{list(shape)}; the file is damaged."
            )
        return stored.buffer.view(dtype).reshape(shape)


def is_fields_file(file: SafetensorsReader) -> bool:
    """Whether the header says that the file is in the fewbits dialect."""
    return KEY in file.metadata


def _is_shape(raw: object) -> bool:
    return isinstance(raw, list) and len(raw) >= 2 and all(type(n) is int and n > 0 for n in raw)


def _stated(file: SafetensorsReader) -> dict[str, Any]:
    where = f"the metadata of {file.path}"
    stated = parse_object(file.metadata[KEY].encode(), where)
    if stated.get("version") != VERSION:
        raise CheckpointError(
            f"{file.path} is of version {quoted(stated.get('version'))} of the fewbits dialect and this fewbits reads "
            f"{VERSION}; install a newer one."
        )
    tensors = stated.get("tensors")
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{where} states no tensors; the file is damaged.")
    return tensors


def statement(tensors: Mapping[str, tuple[str, tuple[int, ...], bool]]) -> str:
    """The metadata entry for matrices: name to format, shape, and whether the network has them transposed."""
    stated: dict[str, dict[str, Any]] = {}
    for name, (format_name, shape, transposed) in tensors.items():
        stated[name] = {"format": format_name, "shape": list(shape), **({"transposed": True} if transposed else {})}
    return json.dumps({"version": VERSION, "tensors": stated})
