"""Write an ONNX file, and the one beside it with large tensors: whole and verified, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from fewbits.checkpoints.base import Bytes
from fewbits.checkpoints.gathering import Gathering
from fewbits.checkpoints.onnx.dialects.base import GraphDialect, GraphMatrix, as_bytes
from fewbits.checkpoints.onnx.layout import OnnxLayout, Place, data_path
from fewbits.checkpoints.partial_file import PartialFile, partial_path, sync_folder
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

_PIECE = 64 << 20
"""Bytes of a carried tensor that are written at once."""


class OnnxWriter:
    """A graph that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __init__(
        self, output: Path, layout: OnnxLayout, dialect: GraphDialect, matrices: Mapping[str, GraphMatrix]
    ) -> None:
        self.output = output
        self.layout = layout
        self._dialect, self._matrices = dialect, matrices
        self._gathering = Gathering(matrices)
        self._published = False
        self._files: list[PartialFile] = []
        try:
            self._open(output, layout.graph_bytes)
            if layout.data_bytes:
                self._open(data_path(output), layout.data_bytes)
            for at, text in layout.texts:
                self._files[0].write(text, at)
            for each in layout.carried:
                for start in range(0, each.data.size, _PIECE):
                    self._put(each.place, start, each.data[start : start + _PIECE])
        except BaseException:
            self.discard()
            raise

    def _open(self, path: Path, size: int) -> None:
        self._files.append(PartialFile(partial_path(path), path, size))

    def __enter__(self) -> OnnxWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the fields of rows from `first_row` on; of what stays as it is, nothing is left to write."""
        if name not in self._matrices:
            return
        matrix = self._matrices[name]
        if self._dialect.by_rows:
            self._write(matrix, first_row, fields)
            return
        whole = self._gathering.add(name, first_row, fields)
        if whole is not None:
            self._write(matrix, 0, whole)

    def write_tensor(self, name: str, data: Bytes) -> None:
        """Write all bytes of the new constant `name`, which is no matrix in a dialect."""
        place = self.layout.places[name, ""]
        if data.nbytes != place.size:
            raise CheckpointError(f"{self.output} got {data.nbytes} bytes of {name} for {place.size}; this is a bug.")
        for start in range(0, data.nbytes, _PIECE):
            self._put(place, start, data[start : start + _PIECE])

    def _write(self, matrix: GraphMatrix, first_row: int, fields: Fields) -> None:
        for part, array in self._dialect.pack(matrix, fields).items():
            place = self.layout.places[matrix.name, part]
            self._put(place, first_row * (place.size // matrix.shape[0]) if first_row else 0, as_bytes(array))

    def _put(self, place: Place, start: int, data: Bytes) -> None:
        if start + data.nbytes > place.size:
            raise CheckpointError(f"{self.output} got more of a tensor than its {place.size} bytes; this is a bug.")
        self._files[int(place.outside)].write(data, place.offset + start)

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        for file in self._files:
            file.start_flush()

    def sync(self) -> None:
        """Wait until every byte is on the disk."""
        for file in self._files:
            file.sync()

    def publish(self) -> None:
        """Make the complete output appear: the tensors first, and last the graph, which readers open.

        A graph that is replaced goes before its tensors do, so that none ever lies beside another one's tensors.
        """
        moved = [(partial_path(self.output), self.output)]
        if self.layout.data_bytes:
            data = data_path(self.output)
            moved.insert(0, (partial_path(data), data))
        kept = [(path, path.with_name(f".{path.name}.replaced")) for _, path in reversed(moved) if path.exists()]
        done: list[tuple[Path, Path]] = []
        try:
            for path, aside in kept:
                path.rename(aside)
                done.append((aside, path))
            for written, path in moved:
                written.rename(path)
                done.append((path, written))
        except BaseException:
            for now, before in reversed(done):
                with contextlib.suppress(OSError):
                    now.rename(before)
            raise
        self._published = True
        sync_folder(self.output.parent)
        for _, aside in kept:
            aside.unlink(missing_ok=True)
        for file in self._files:
            file.close()

    def discard(self) -> None:
        """Forget the files unless they were published; safe to call twice."""
        for file in self._files:
            if not self._published:
                file.discard()
            file.close()
