"""Write a Hugging Face model directory whose matrices lie in some dialect of safetensors; whole, or not at all.

The directory grows under another name. In our own dialect fields are written slab by slab; in another one the fields of
a matrix are gathered, packed as the dialect says and written when they are complete: never more than the packed codes
of the matrices at work are in memory.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from fewbits.checkpoints.directory_layout import METHOD, DirectoryLayout
from fewbits.checkpoints.gathering import Gathering
from fewbits.checkpoints.partial_file import PartialDirectory, PartialFile, partial_path, sync_folder
from fewbits.checkpoints.safetensors import INDEX_NAME, SafetensorsReader, open_directory
from fewbits.errors import CheckpointError
from fewbits.formats import Fields


class DirectoryWriter:
    """A directory that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __init__(self, output: Path, layout: DirectoryLayout) -> None:
        self.output = output
        self.layout = layout
        self.partial = partial_path(output)
        self._folder = PartialDirectory(self.partial, output)
        self._files: list[PartialFile] = []
        self._gathering = Gathering(layout.packed)
        try:
            for file in layout.files:
                self._files.append(PartialFile(self.partial / file.name, output, file.size))
                self._files[-1].write(file.header, 0)
            _write_synced(self.partial / "config.json", layout.config)
            if layout.index is not None:
                _write_synced(self.partial / INDEX_NAME, layout.index)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> DirectoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the fields of rows from `first_row` on, which begins a line of each of them."""
        if name not in self.layout.packed:
            self._write(name, first_row, fields)
            return
        whole = self._gathering.add(name, first_row, fields)
        if whole is not None and self.layout.dialect is not None:
            self._write(name, 0, self.layout.dialect.pack(self.layout.packed[name], whole))

    def _write(self, name: str, first_row: int, fields: Fields) -> None:
        for key, array in fields.items():
            slot = self.layout.slots[name, key]
            # Lines are rounded up at the end of the tensor only, by less than one: this is exact where a line begins.
            line = first_row * slot.lines // slot.rows
            if line * slot.line_bytes + array.nbytes > slot.lines * slot.line_bytes:
                raise CheckpointError(f"tensor {name} got more of {key} than its {slot.lines} lines; this is a bug.")
            self._files[slot.file].write(
                np.ascontiguousarray(array).reshape(-1).view(np.uint8), slot.offset + line * slot.line_bytes
            )

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        for file in self._files:
            file.start_flush()

    def sync(self) -> None:
        """Wait until every byte of the weights is on the disk."""
        for file in self._files:
            file.sync()

    def publish(self) -> None:
        """Add configuration and tokenizer, and make the complete directory appear under its name."""
        for name, file in self.layout.copied.items():
            (self.partial / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_synced(file, self.partial / name)
            sync_folder((self.partial / name).parent)
        sync_folder(self.partial)
        replaced = self.output.with_name(f".{self.output.name}.replaced")
        if self.output.exists():
            self.output.rename(replaced)
        self.partial.rename(self.output)
        self._folder.close()
        sync_folder(self.output.parent)
        self._close()
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self) -> None:
        """Forget the directory unless it was published; safe to call twice."""
        self._folder.discard()
        self._close()

    def _close(self) -> None:
        for file in self._files:
            file.close()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_synced(source: Path, path: Path) -> None:
    """Copied piece by piece: a projector may be as large as a model."""
    with source.open("rb") as read, path.open("wb") as file:
        shutil.copyfileobj(read, file, 1 << 22)
        file.flush()
        os.fsync(file.fileno())


def require_replaceable(output: Path, *, force: bool) -> None:
    """Refuse a directory that exists, and with `force` one that fewbits did not write."""
    if not output.exists():
        return
    if not force:
        raise CheckpointError(f"{output} exists already; choose another output, or replace it with --force.")
    if any(output.iterdir()) and not _is_ours(output):
        raise CheckpointError(
            f"{output} is a directory that fewbits did not write, and is not replaced; choose another."
        )


def _is_ours(folder: Path) -> bool:
    """Whether fewbits wrote the directory: the header of its weights says so."""
    try:
        _, files = open_directory(folder)
        readers = [SafetensorsReader(file) for file in files if file.suffix == ".safetensors"]
    except (CheckpointError, OSError):
        return False
    return all(METHOD in each.metadata or each.metadata.get("quantized_by") == METHOD for each in readers)
