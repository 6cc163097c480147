"""A model directory in some dialect, seen as matrices with the fields of our formats."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.dialects import recognized
from fewbits.checkpoints.dialects.base import Configuration, Dialect
from fewbits.checkpoints.fields import FieldsReader, Matrix, StoredMatrix, is_fields_file
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.safetensors import open_directory
from fewbits.errors import CheckpointError, FormatError

CONFIG = "config.json"


class DialectReader:
    """A checkpoint in a dialect that is not ours, its header checked against its configuration."""

    def __init__(self, files: Reader, dialect: Dialect, configuration: Configuration) -> None:
        self.path: Path = files.path
        self.metadata = files.metadata
        self.dialect = dialect
        self.dialect_name = dialect.name
        self._files, self._configuration = files, configuration
        stated = dialect.matrices(configuration, files)
        present = set(files.names())
        self._matrices = {name: self._matrix(matrix, present) for name, matrix in stated.items()}
        owner = {each: name for name, matrix in stated.items() for each in dialect.slots(matrix)}
        self._names = list(dict.fromkeys(owner.get(name, name) for name in files.names()))

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return self._names

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        return self._matrices[name] if name in self._matrices else self._files.read(name)

    def _matrix(self, matrix: Matrix, present: set[str]) -> StoredMatrix:
        """The matrix, its tensors being there in the right types and shapes."""
        try:
            slots = self.dialect.slots(matrix)
            _ = matrix.shapes
        except (FormatError, ZeroDivisionError) as error:
            raise CheckpointError(f"tensor {quoted(matrix.name)} in {self.path} cannot be read: {error}.") from None
        optional = {name for name in slots if name.endswith(".g_idx")}
        size = 0
        for name, (dtype, shape) in slots.items():
            if name in optional - present:
                continue
            if name not in present:
                raise CheckpointError(f"{self.path} holds no {quoted(name)}, which its matrix needs; it is damaged.")
            stored = self._files.read(name)
            if (stored.format, stored.shape) != (dtype, shape) and ".quant_state." not in name:
                raise CheckpointError(
                    f"tensor {quoted(name)} in {self.path} is {stored.format} {list(stored.shape)} and should be "
                    f"{dtype} {list(shape)} by its configuration; one of the two is damaged."
                )
            size += stored.bytes
        load = partial(self.dialect.unpack, matrix, self._files, self._configuration)
        facts = {each.name: getattr(matrix, each.name) for each in fields(Matrix)}  # of what may know more of its file
        return StoredMatrix(**facts, bytes=size, load=load)


def configuration_of(path: Path) -> dict[str, Any] | None:
    """`quantization_config` of the model directory `path`; None where it has none."""
    config = path / CONFIG
    stated = load_object(config).get("quantization_config") if config.is_file() else None
    return stated if isinstance(stated, dict) else None


def open_quantized(path: Path, *, unknown_as_it_is: bool = False) -> FieldsReader | DialectReader | None:
    """What the model directory `path` holds, matrices in formats of ours; None where it is in no dialect.

    Raises CheckpointError where it is quantized in a way that is not known, unless that is to be None too.
    """
    files, _ = open_directory(path)
    stated = None if is_fields_file(files) else configuration_of(path)
    return quantized(path, files, stated, unknown_as_it_is=unknown_as_it_is)


def quantized(
    name: str | Path, files: Reader, configuration: Configuration | None, *, unknown_as_it_is: bool
) -> FieldsReader | DialectReader | None:
    """The same of `files` beside a config.json with that `quantization_config`; errors call the directory `name`."""
    if is_fields_file(files):
        return FieldsReader(files)
    if configuration is None:
        return None
    dialect = recognized(configuration)
    if dialect is None and unknown_as_it_is:
        return None
    if dialect is None:
        raise CheckpointError(
            f"{name} is quantized by {quoted(configuration.get('quant_method'))}, a dialect that is not read here; "
            "start from the original model."
        )
    return DialectReader(files, dialect, configuration)
