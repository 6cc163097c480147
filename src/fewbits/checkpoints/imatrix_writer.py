"""Write importance matrices as llama.cpp's llama-imatrix does, to the byte: a GGUF file, or the older .dat.

See `imatrix.py` for what lies in them. The .dat loses two things: counts of experts, in whose place their means are
stored times the calls of the busiest one, and which experts no token reached, since these come back as ones.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.gguf_writer import GGUFWriter, plan_layout
from fewbits.checkpoints.imatrix import COUNTS, SUMS, Floats, Importance
from fewbits.checkpoints.partial_file import PartialFile, partial_path, sync_folder
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

NO_MODEL = ""
"""The architecture of a GGUF file that holds no model."""


def write_importance(
    path: Path, entries: Mapping[str, Importance], *, chunk_length: int, chunks: int, datasets: Sequence[str]
) -> None:
    """Write `entries`, by name of tensor, to `path`: the older form where its name ends in .dat, else GGUF.

    An entry has `sums` (experts * cols,) of squares and `counts` (experts,) of tokens; one expert for a plain matrix.
    `chunks` windows of `chunk_length` tokens were measured, of the texts `datasets`. The file appears whole or not at
    all. Raises CheckpointError where nothing was measured or numbers are none.
    """
    if not entries:
        raise CheckpointError(f"{path}: there is no importance to write; calibrate on a text first.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; give the name of the importance matrix to write.")
    for name, entry in entries.items():
        _check(path, name, entry)
    # llama.cpp's order, so that equal sums are equal bytes.
    ordered = {name: entries[name] for name in sorted(entries, key=str.encode)}
    if path.suffix == ".dat":
        _write_dat(path, ordered, chunk_length, chunks, datasets)
    else:
        _write_gguf(path, ordered, chunk_length, chunks, datasets)


def _check(path: Path, name: str, entry: Importance) -> None:
    if entry.counts.size == 0 or entry.sums.size == 0 or entry.sums.size % entry.counts.size:
        raise CheckpointError(
            f"{path}: {entry.sums.size} sums and {entry.counts.size} counts for {quoted(name)}; this is a bug."
        )
    for numbers in (entry.sums, entry.counts):
        if not np.isfinite(numbers).all() or numbers.min() < 0:
            raise CheckpointError(
                f"{path}: what was measured for {quoted(name)} holds NaN, infinite or negative numbers; the model or "
                "its text is damaged."
            )


def _write_gguf(
    path: Path, entries: Mapping[str, Importance], chunk_length: int, chunks: int, datasets: Sequence[str]
) -> None:
    metadata = {
        "general.type": Value("imatrix", "string"),
        "imatrix.datasets": Value(list(datasets) or [""], "array:string"),
        "imatrix.chunk_count": Value(chunks, "uint32"),
        "imatrix.chunk_size": Value(chunk_length, "uint32"),
    }
    tensors: dict[str, Floats] = {}
    for name, entry in entries.items():
        experts = entry.counts.size
        tensors[name + SUMS] = _without_one(entry.sums.reshape(experts, -1))
        tensors[name + COUNTS] = _without_one(entry.counts.reshape(experts, 1))
    layout = plan_layout(NO_MODEL, metadata, [(name, "F32", t.shape, 4 * t.size) for name, t in tensors.items()])
    with GGUFWriter(path, layout) as writer:
        for name, tensor in tensors.items():
            writer.write_rows(name, 0, np.ascontiguousarray(tensor, "<f4").reshape(1, -1).view(np.uint8))
        writer.sync()
        writer.publish()


def _without_one(matrix: Floats) -> Floats:
    """One row as a vector: ggml counts no dimensions that are 1 after the last one that is not."""
    return matrix[0] if len(matrix) == 1 else matrix


def _write_dat(
    path: Path, entries: Mapping[str, Importance], chunk_length: int, chunks: int, datasets: Sequence[str]
) -> None:
    measured = {name: entry for name, entry in entries.items() if entry.counts.any()}
    parts = [struct.pack("<i", len(measured))]
    for name, entry in measured.items():
        encoded, calls = name.encode(), -(-int(entry.counts.max()) // chunk_length)
        values = _means(entry) * np.float32(calls)
        parts += [struct.pack("<i", len(encoded)), encoded, struct.pack("<ii", calls, values.size), values.tobytes()]
    text = (datasets[-1] if datasets else "").encode()
    data = b"".join([*parts, struct.pack("<ii", chunks, len(text)), text])
    file = PartialFile(partial_path(path), path, len(data))
    try:
        file.write(data, 0)
        file.sync()
        file.path.replace(path)
        sync_folder(path.parent)
        file.close()
    finally:
        file.discard()


def _means(entry: Importance) -> Floats:
    """Mean squares (experts * cols,); ones for experts that no token reached."""
    sums, counts = entry.sums.astype("<f4").reshape(entry.counts.size, -1), entry.counts.astype("<f4")[:, None]
    means: Floats = np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.float32(1)).astype("<f4")
    return means.ravel()
