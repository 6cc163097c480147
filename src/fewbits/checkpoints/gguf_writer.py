"""Write GGUF files: the header through the gguf package, tensor bytes in place, the whole file or nothing.

The file grows beside its target under a fixed name, so that whatever a killed run leaves behind is replaced by the next
run. Space is reserved before work starts; rows may arrive in any order and from several threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Value
from fewbits.errors import CheckpointError

if TYPE_CHECKING:
    import gguf

ALIGNMENT = 32
FLUSH_EVERY = 64 << 20
"""Bytes after which what was written is sent to the disk, while the next rows are computed."""


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
    import gguf

    if format_name in gguf.GGMLQuantizationType.__members__:
        return None
    return "ggml has no type of that name"


def plan_layout(
    architecture: str, metadata: Mapping[str, Value], tensors: list[tuple[str, str, tuple[int, ...], int]]
) -> Layout:
    """The layout of a file with `metadata` and `tensors` (name, format, shape, bytes)."""
    header = _header(architecture, metadata, tensors)
    position = _aligned(len(header))
    header += bytes(position - len(header))
    slots = []
    for name, format_name, shape, size in tensors:
        slots.append(Slot(name, format_name, shape, position, size))
        position = _aligned(position + size)
    return Layout(header, tuple(slots), position)


def _packed_strings(strings: list[str]) -> bytes:
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


def _aligned(position: int) -> int:
    return (position + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _header(
    architecture: str, metadata: Mapping[str, Value], tensors: list[tuple[str, str, tuple[int, ...], int]]
) -> bytes:
    import gguf

    class HeaderOnly(gguf.GGUFWriter):
        """The package's writer, writing into memory; long arrays are packed in one go, not value by value."""

        def _pack_val(
            self, val: Any, vtype: gguf.GGUFValueType, add_vtype: bool, sub_type: gguf.GGUFValueType | None = None
        ) -> bytes:
            if vtype is gguf.GGUFValueType.ARRAY and sub_type is not None and sub_type in _PACKED_ELEMENTS:
                kind = struct.pack("<I", vtype) if add_vtype else b""
                return kind + struct.pack("<IQ", sub_type, len(val)) + _PACKED_ELEMENTS[sub_type](val)
            packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
            return packed

        def open_output_file(self, path: Path | None = None) -> None:
            if self.fout is None:
                self.fout = [io.BytesIO()]  # type: ignore[list-item]
                self.state = gguf.gguf_writer.WriterState.EMPTY

    writer = HeaderOnly(None, architecture)
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, format_name, shape, size in tensors:
        kind = gguf.GGMLQuantizationType[format_name]
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
    elif len(value.value):
        writer.add_key_value(key, value.value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[element.upper()])


def partial_path(output: Path) -> Path:
    """Where `output` grows until it is complete and verified."""
    return output.with_name(f".{output.name}.partial")


class GGUFWriter:
    """A file that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __init__(self, output: Path, layout: Layout) -> None:
        self.output = output
        self.partial = partial_path(output)
        self.layout = layout
        self._slots = {slot.name: slot for slot in layout.slots}
        self._unflushed = 0
        self._flushing: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="fewbits-flush")
        self._file = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            os.ftruncate(self._file, 0)
            self._reserve()
            self._write(layout.header, 0)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # pragma: no cover - not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(self._file)
            self._file = -1
            raise CheckpointError(
                f"{self.output} is being written by another run of fewbits; wait for it or choose another output."
            ) from e

    def _reserve(self) -> None:
        """Take the disk space now: a full disk is found before hours of work, not after."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, self.layout.size)
        else:  # pragma: no cover - macOS and Windows reserve while writing
            os.ftruncate(self._file, self.layout.size)

    def _write(self, data: Bytes | bytes, position: int) -> None:
        view = memoryview(data if isinstance(data, bytes) else data.data).cast("B")
        while view:
            done = os.pwrite(self._file, view, position)
            view, position = view[done:], position + done

    def write_rows(self, name: str, first_row: int, rows: Bytes) -> None:
        """Write `rows` (rows, bytes per row) of tensor `name`, beginning with `first_row`."""
        slot = self._slots[name]
        position = slot.offset + first_row * rows.shape[1]
        if position + rows.size > slot.offset + slot.size:
            raise CheckpointError(f"tensor {name} got more rows than its {slot.size} bytes hold; this is a bug.")
        self._write(np.ascontiguousarray(rows), position)
        self._unflushed += rows.size
        if self._unflushed >= FLUSH_EVERY and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._flushing = self._flusher.submit(os.fsync, self._file)

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        self._flushing = self._flusher.submit(os.fsync, self._file)

    def sync(self) -> None:
        """Wait until every byte is on the disk."""
        if self._flushing is not None:
            self._flushing.result()
        self._flusher.submit(os.fsync, self._file).result()

    def publish(self) -> None:
        """Make the complete, synced file appear under its name, durably and at once."""
        self.partial.replace(self.output)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            folder = os.open(self.output.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._close()

    def discard(self) -> None:
        """Forget the file unless it was published; safe to call twice."""
        if self._file >= 0:
            with contextlib.suppress(FileNotFoundError):
                self.partial.unlink()
        self._close()

    def _close(self) -> None:
        self._flusher.shutdown(wait=True, cancel_futures=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
