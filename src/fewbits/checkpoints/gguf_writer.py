"""Write GGUF files: the header through the gguf package, tensor bytes in place, the whole file or nothing."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Value
from fewbits.checkpoints.ggml_types import GGML_TYPES, ggml_number
from fewbits.checkpoints.partial_file import PartialFile, partial_path, sync_folder
from fewbits.checkpoints.strings import Strings
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

if TYPE_CHECKING:
    import gguf

ALIGNMENT = 32
"""Of a file that states no other."""

Row = tuple[str, str, tuple[int, ...], int]
"""A tensor to be: name, format, shape, bytes."""


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies: `shape` in numpy's order, `offset` from the beginning of the file, `size` in bytes."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Layout:
    """A whole file before its tensors: header bytes, slots in order, and the exact size."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


def refuses(format_name: str) -> str | None:
    """Why a GGUF file cannot hold tensors of `format_name`; None when it can."""
    known = {kind.name for kind in GGML_TYPES.values()}
    return None if format_name in known else "ggml has no type of that name"


def plan_layout(architecture: str | None, metadata: Mapping[str, Value], tensors: Sequence[Row]) -> Layout:
    """The layout of a file with `metadata` and `tensors`; without an architecture it is a part that states none."""
    alignment = alignment_of(metadata)
    header = _header(architecture, metadata, tensors, alignment)
    position = aligned(len(header), alignment)
    header += bytes(position - len(header))
    slots = []
    for name, format_name, shape, size in tensors:
        slots.append(Slot(name, format_name, shape, position, size))
        position = aligned(position + size, alignment)
    return Layout(header, tuple(slots), position)


def alignment_of(metadata: Mapping[str, Value]) -> int:
    """Of what tensors begin at a multiple in a file with `metadata`."""
    stated = metadata.get("general.alignment")
    return int(stated.value) if stated else ALIGNMENT


def aligned(position: int, alignment: int) -> int:
    """The next multiple of `alignment`.

    >>> aligned(33, 32), aligned(64, 32)
    (64, 64)
    """
    return (position + alignment - 1) // alignment * alignment


def _packed_strings(strings: Sequence[str]) -> bytes:
    if isinstance(strings, Strings):
        return strings.packed()
    parts = []
    for text in strings:
        encoded = text.encode()
        parts += [struct.pack("<Q", len(encoded)), encoded]
    return b"".join(parts)


_STRING, _INT32, _FLOAT32 = 8, 5, 6
_PACKED_ELEMENTS: Mapping[int, Callable[[list[Any]], bytes]] = MappingProxyType(
    {
        _STRING: _packed_strings,
        _INT32: lambda values: struct.pack(f"<{len(values)}i", *values),
        _FLOAT32: lambda values: struct.pack(f"<{len(values)}f", *values),
    }
)
"""GGUF element type -> packer of a whole array; vocabularies have a hundred thousand elements and more."""


def _header(architecture: str | None, metadata: Mapping[str, Value], tensors: Sequence[Row], alignment: int) -> bytes:
    import gguf

    class HeaderOnly(gguf.GGUFWriter):
        """The package's writer, writing into memory; long arrays are packed in one go, not value by value."""

        def _pack_val(
            self, val: Any, vtype: gguf.GGUFValueType, add_vtype: bool, sub_type: gguf.GGUFValueType | None = None
        ) -> bytes:
            if vtype is gguf.GGUFValueType.ARRAY and sub_type is not None:
                kind = struct.pack("<I", vtype) if add_vtype else b""
                if sub_type in _PACKED_ELEMENTS or not len(val):  # the package writes no empty array
                    elements = _PACKED_ELEMENTS[sub_type](val) if len(val) else b""
                    return kind + struct.pack("<IQ", sub_type, len(val)) + elements
            packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
            return packed

        def open_output_file(self, path: Path | None = None) -> None:
            if self.fout is None:
                self.fout = [io.BytesIO()]  # type: ignore[list-item]
                self.state = gguf.gguf_writer.WriterState.EMPTY

    writer = HeaderOnly(None, architecture or "")  # which it does not state
    writer.data_alignment = alignment
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, format_name, shape, size in tensors:
        # A plain number, because the package may not know the type yet; it only writes it down.
        kind: Any = ggml_number(format_name)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    stream: Any = writer.fout[0]
    return bytes(stream.getvalue())


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    import gguf

    kind, _, element = value.type.partition(":")
    if kind != "array":
        writer.add_key_value(key, value.value, gguf.GGUFValueType[kind.upper()])
    else:
        writer.add_key_value(key, value.value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[element.upper()])


class GGUFWriter:
    """A file that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __init__(self, output: Path, layout: Layout) -> None:
        self.output = output
        self.partial = partial_path(output)
        self.layout = layout
        self._slots = {slot.name: slot for slot in layout.slots}
        self._file = PartialFile(self.partial, output, layout.size)
        try:
            self._file.write(layout.header, 0)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write_rows(self, name: str, first_row: int, rows: Bytes) -> None:
        """Write `rows` (rows, bytes per row) of tensor `name`, beginning with `first_row`."""
        slot = self._slots[name]
        position = slot.offset + first_row * rows.shape[1]
        if position + rows.size > slot.offset + slot.size:
            raise CheckpointError(f"tensor {name} got more rows than its {slot.size} bytes hold; this is a bug.")
        self._file.write(rows, position)

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the one field that GGUF's formats have."""
        self.write_rows(name, first_row, fields["data"])

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        self._file.start_flush()

    def sync(self) -> None:
        """Wait until every byte is on the disk."""
        self._file.sync()

    def publish(self) -> None:
        """Make the complete, synced file appear under its name, durably and at once."""
        self.partial.replace(self.output)
        sync_folder(self.output.parent)
        self._file.close()

    def discard(self) -> None:
        """Forget the file unless it was published; safe to call twice."""
        self._file.discard()
