"""Read GGUF files (versions 2 and 3, of either byte order), independently of the gguf package that writes them.

Layout: magic, version, counts, metadata, tensor descriptions, padding to `general.alignment`, tensor bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Everything is checked before any tensor is handed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType

from fewbits.checkpoints.base import StoredTensor, Value
from fewbits.checkpoints.ggml_types import GGMLType, ggml_type
from fewbits.checkpoints.gguf_byte_order import SwappedTensor
from fewbits.checkpoints.gguf_values import Cursor
from fewbits.checkpoints.limits import METADATA_KEYS, TENSORS, countless
from fewbits.checkpoints.mapping import map_file
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
DIMENSION_LIMIT = 4
"""ggml's GGML_MAX_DIMS."""

_SMALLEST_TENSOR = 8 + 4 + 4 + 8
"""Bytes of a tensor's description with an empty name and no dimension."""
_SMALLEST_KEY = 8 + 4 + 1
"""Bytes of a metadata entry with an empty key and a one-byte value."""


@dataclass(frozen=True)
class _Entry:
    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    size: int


def _counts(cursor: Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of metadata keys, both possible in this file.

    The version also says in which order the bytes of numbers lie.
    """
    path = cursor.path
    if bytes(cursor.take(4, "the magic")) != MAGIC:
        raise CheckpointError(f"{path} does not begin with the letters GGUF; it is no GGUF file.")
    version = cursor.uint32("the version")
    cursor.big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
    if version not in VERSIONS and not cursor.big_endian:
        raise CheckpointError(f"{path} is GGUF version {version}, and versions 2 and 3 are supported; convert it.")
    tensors, keys = cursor.uint64("the tensor count"), cursor.uint64("the metadata count")
    left = cursor.data.size - cursor.position
    if tensors > left // _SMALLEST_TENSOR or keys > left // _SMALLEST_KEY:
        raise CheckpointError(
            f"{path} claims {tensors} tensors and {keys} metadata keys, more than its {cursor.data.size} bytes can "
            "hold; it is damaged or unsafe."
        )
    if tensors > TENSORS or keys > METADATA_KEYS:
        raise CheckpointError(
            f"{path} has {tensors} tensors and {keys} metadata keys, and {TENSORS} and {METADATA_KEYS} are the most "
            "that are read; it is damaged or unsafe."
        )
    return tensors, keys


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(count):
        key = cursor.string(f"the name of metadata key {number}")
        if not key:
            raise CheckpointError(f"{cursor.path} gives metadata key {number} an empty name; the file is damaged.")
        if key in metadata:
            raise CheckpointError(
                f"{cursor.path} has the metadata key {quoted(key)} twice; the file is damaged or unsafe."
            )
        metadata[key] = cursor.value(key)
    return metadata


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    stated = metadata.get("general.alignment")
    if stated is None:
        return DEFAULT_ALIGNMENT
    value = stated.value
    if stated.type != "uint32" or value < 8 or value & (value - 1):
        raise CheckpointError(
            f"{path} states general.alignment = {quoted(value)} ({stated.type}), no power of two from 8; damaged."
        )
    return int(value)


def _read_entry(cursor: Cursor, number: int) -> _Entry:
    """One tensor's description. ggml lists the fastest dimension first; shapes here are numpy's, slowest first."""
    name = cursor.string(f"the name of tensor {number}")
    where = f"tensor {quoted(name)} in {cursor.path}"
    dimensions = cursor.uint32(f"the dimension count of tensor {quoted(name)}")
    if not 1 <= dimensions <= DIMENSION_LIMIT:
        raise CheckpointError(f"{where} has {dimensions} dimensions, and 1 to {DIMENSION_LIMIT} are possible; damaged.")
    shape = tuple(cursor.uint64(f"a dimension of tensor {quoted(name)}") for _ in range(dimensions))[::-1]
    kind = cursor.uint32(f"the type of tensor {quoted(name)}")
    offset = cursor.uint64(f"the offset of tensor {quoted(name)}")
    stored = ggml_type(kind)
    if stored is None:
        raise CheckpointError(f"{where} has the unknown type number {kind}; it needs a newer reader or is damaged.")
    if countless(shape):
        raise CheckpointError(f"{where} has shape {quoted(list(shape))}, more than 64 bits can count; it is damaged.")
    if shape[-1] % stored.span:
        raise CheckpointError(
            f"{where} is {stored.name} with {shape[-1]} columns, no multiple of {stored.span}; the file is damaged."
        )
    return _Entry(name, stored, shape, offset, prod(shape) // stored.span * stored.span_bytes)


def _check_places(path: Path, entries: Mapping[str, _Entry], alignment: int, available: int) -> None:
    """Every tensor is aligned, inside the file, and on bytes of its own."""
    end, previous = 0, ""
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.size)):
        where = f"tensor {quoted(entry.name)} in {path}"
        if entry.offset % alignment:
            raise CheckpointError(f"{where} is at offset {entry.offset}, not aligned to {alignment}; damaged.")
        if entry.offset + entry.size > available:
            raise CheckpointError(
                f"{where} needs {entry.size} bytes at offset {entry.offset} but the data part has {available}; "
                "the file is truncated or damaged: download it again."
            )
        if entry.offset < end:
            raise CheckpointError(f"{where} overlaps tensor {quoted(previous)}; the file is damaged or unsafe.")
        if entry.size:
            end, previous = entry.offset + entry.size, entry.name


class GGUFReader:
    """One GGUF file, checked completely; `metadata` maps keys to typed values, tensors are mapped views.

    Tensors of a big-endian file are turned into little-endian bytes when they are looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        cursor = Cursor(path, map_file(path))
        tensors, keys = _counts(cursor)
        self.big_endian = cursor.big_endian
        self.metadata: Mapping[str, Value] = MappingProxyType(_read_metadata(cursor, keys))
        self.alignment = _alignment(path, self.metadata)
        self._entries: dict[str, _Entry] = {}
        for number in range(tensors):
            entry = _read_entry(cursor, number)
            if entry.name in self._entries:
                raise CheckpointError(
                    f"{path} has the tensor {quoted(entry.name)} twice; the file is damaged or unsafe."
                )
            self._entries[entry.name] = entry
        start = -(-cursor.position // self.alignment) * self.alignment
        _check_places(path, self._entries, self.alignment, max(0, cursor.data.size - start))
        self._data = cursor.data[start:]

    def names(self) -> list[str]:
        """Tensor names in the order of their descriptions."""
        return list(self._entries)

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`, a view; raises CheckpointError when there is none."""
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path} holds no tensor called {quoted(name)}.")
        data = self._data[entry.offset : entry.offset + entry.size]
        stored = StoredTensor(name, entry.type.name, entry.shape, data)
        return SwappedTensor.of(stored) if self.big_endian else stored
