"""Read importance matrices as llama.cpp's llama-imatrix writes them: a GGUF file, or the older .dat.

For each matrix of the model the mean square of what each of its columns is multiplied with, measured on a text. GGUF:
two F32 tensors per matrix, NAME.in_sum2 (experts, cols) and NAME.counts (experts, 1). The .dat: a count of entries;
for each the length of its name, the name, the number of calls, the number of values, the values; at the end, if at
all, the number of chunks and the name of the text; int32 and float32, little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.gguf import MAGIC, GGUFReader
from fewbits.checkpoints.gguf_values import Cursor
from fewbits.checkpoints.limits import TENSORS
from fewbits.checkpoints.mapping import map_file
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

Floats = npt.NDArray[np.float32]

FLOOR = 2.0**-20
"""The least that a column counts, as a part of what the columns of its matrix count on average."""

SUMS, COUNTS = ".in_sum2", ".counts"
"""Endings of the names of an entry's two tensors in a GGUF file."""


@dataclass(frozen=True)
class Importance:
    """The importance of one tensor: `sums` over `counts`, one count per matrix or one for all. Nothing is copied."""

    sums: Floats
    counts: Floats
    matrices: int = 1

    def mean(self, matrix: int) -> Floats:
        """Mean squares (cols,) of one matrix; ones where the text never reached it."""
        cols = self.sums.size // self.matrices
        count = np.rint(self.counts[matrix if self.counts.size > 1 else 0])
        return self.sums[matrix * cols : (matrix + 1) * cols] / count if count > 0 else np.ones(cols, np.float32)

    def row(self, matrix: int) -> Floats:
        """What the columns (cols,) of one matrix count: the mean squares up to a power of two, none quite at zero.

        The power of two brings their mean near one, so that no square overflows. A column that the text never reached
        counts hardly, but it counts: else whole groups would come back as nonsense. Zeros alone say nothing about the
        columns, which count evenly then.
        """
        values = self.mean(matrix).astype(np.float64)
        scaled = np.ldexp(values, -np.frexp(values.mean())[1])
        if not scaled.any():
            return np.ones(values.size, np.float32)
        raised: Floats = np.maximum(scaled, FLOOR * scaled.mean()).astype(np.float32)
        return raised


@dataclass(frozen=True)
class ImportanceMatrix:
    """Tensor name -> importance, of a whole model."""

    path: Path
    entries: Mapping[str, Importance]
    text: str
    """Name of the text that was measured on; "" where the file does not say."""
    chunks: int
    """Pieces of that text; 0 where the file does not say."""

    def of(self, name: str, shape: tuple[int, ...]) -> Importance | None:
        """The importance of the tensor `name`, matrix by matrix; None without an entry.

        Raises CheckpointError where the entry has another number of values than `shape` has columns.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        matrices, cols = prod(shape[:-2]), shape[-1]
        if entry.sums.size != matrices * cols or entry.counts.size not in {1, matrices}:
            raise CheckpointError(
                f"{self.path} has {entry.sums.size} values for {quoted(name)}, whose shape {list(shape)} calls for "
                f"{matrices * cols}; it was measured on another model."
            )
        return replace(entry, matrices=matrices)


def read_importance(path: Path) -> ImportanceMatrix:
    """The importance matrix in `path`, checked completely; raises CheckpointError when it is none or is damaged."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the file that llama-imatrix wrote.")
    data = map_file(path)
    found = _read_gguf(path) if bytes(data[:4]) == MAGIC else _read_dat(path, Cursor(path, data))
    for name, entry in found.entries.items():
        if not np.isfinite(entry.sums).all() or entry.sums.min(initial=0.0) < 0:
            raise CheckpointError(
                f"{path} holds NaN, infinite or negative numbers for {quoted(name)}; make it again with llama-imatrix."
            )
    return found


def _read_gguf(path: Path) -> ImportanceMatrix:
    reader = GGUFReader(path)
    stored = set(reader.names())
    names = [name.removesuffix(SUMS) for name in reader.names() if name.endswith(SUMS)]
    if not names:
        raise CheckpointError(
            f"{path} is a GGUF file without importance (no tensor ends in {SUMS}); make one with llama-imatrix."
        )
    entries = {}
    for name in names:
        if name + COUNTS not in stored:
            raise CheckpointError(f"{path} has sums for {quoted(name)} and no counts; it is damaged.")
        entries[name] = _entry(path, name, _floats(reader, name + SUMS), _floats(reader, name + COUNTS))
    texts = _value(reader.metadata, "imatrix.datasets", [])
    text = str(texts[0]) if isinstance(texts, Sequence) and texts else ""
    chunks = _value(reader.metadata, "imatrix.chunk_count", 0)
    return ImportanceMatrix(path, entries, text, chunks if isinstance(chunks, int) else 0)


def _value(metadata: Mapping[str, Any], key: str, default: object) -> object:
    return metadata[key].value if key in metadata else default


def _floats(reader: GGUFReader, name: str) -> Floats:
    tensor = reader.read(name)
    if tensor.format != "F32":
        raise CheckpointError(f"{reader.path} stores {quoted(name)} as {tensor.format}, which should be F32; damaged.")
    values: Floats = np.ascontiguousarray(tensor.slab(0, tensor.rows)).reshape(-1).view("<f4")
    return values


def _entry(path: Path, name: str, sums: Floats, counts: Floats) -> Importance:
    """`sums` (experts * cols,) and `counts` (experts,), checked."""
    if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
        raise CheckpointError(
            f"{path} has {sums.size} sums and {counts.size} counts for {quoted(name)}; it is damaged."
        )
    if not (counts >= 0).all():
        raise CheckpointError(f"{path} has counts for {quoted(name)} that are NaN or negative; it is damaged.")
    return Importance(sums, counts)


def _read_dat(path: Path, cursor: Cursor) -> ImportanceMatrix:
    count = _int32(cursor, "the number of entries")
    smallest = 4 + 1 + 4 + 4 + 4
    if not 1 <= count <= cursor.data.size // smallest:
        raise CheckpointError(
            f"{path} is no importance matrix: neither a GGUF file nor the older .dat of llama.cpp; make one with "
            "llama-imatrix."
        )
    if count > TENSORS:
        raise CheckpointError(
            f"{path} has {count} entries, and {TENSORS} are the most that are read; damaged or unsafe."
        )
    entries = dict(_dat_entries(cursor, count))
    if len(entries) != count:
        raise CheckpointError(f"{path} names a tensor twice; it is damaged.")
    left = cursor.data.size - cursor.position
    chunks = _int32(cursor, "the number of chunks") if left >= 4 else 0
    text = _string(cursor, "the name of the text") if left >= 8 else ""
    return ImportanceMatrix(path, entries, text, max(chunks, 0))


def _dat_entries(cursor: Cursor, count: int) -> Iterator[tuple[str, Importance]]:
    for number in range(count):
        name = _string(cursor, f"the name of entry {number}")
        calls = _int32(cursor, f"the calls of {quoted(name)}")
        size = _int32(cursor, f"the number of values of {quoted(name)}")
        if size < 1:
            raise CheckpointError(f"{cursor.path} has {size} values for {quoted(name)}; it is damaged.")
        values = np.frombuffer(cursor.take(4 * size, f"the values of {quoted(name)}"), "<f4")
        yield name, Importance(values, np.array([max(calls, 1)], np.float32))


def _int32(cursor: Cursor, what: str) -> int:
    return int.from_bytes(cursor.take(4, what), "little", signed=True)


def _string(cursor: Cursor, what: str) -> str:
    length = _int32(cursor, f"the length of {what}")
    if length < 0:
        raise CheckpointError(f"{cursor.path} states {what} with {length} bytes; it is damaged.")
    try:
        return str(cursor.take(length, what), "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{cursor.path} has {what} that is not UTF-8; it is damaged.") from None
