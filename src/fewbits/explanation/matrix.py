"""A tensor of a file as a matrix of float32, read slab by slab; huge ones are sampled in slabs spread evenly."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewbits import formats, kernels
from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.gguf import MAGIC
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.safetensors import SafetensorsReader, open_directory
from fewbits.errors import CheckpointError

Floats = npt.NDArray[np.float32]

SLAB = 1 << 20
"""Numbers in memory at once, about."""

TILE = 128
"""Rows of a slab are a multiple of this, so that no format's tiles are cut."""


@dataclass(frozen=True)
class Matrix:
    """`tensor` seen as (rows, cols); a vector is one row."""

    file: Path
    tensor: StoredTensor
    rows: int
    cols: int

    def floats(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop` as float32."""
        each = self.tensor.rows // self.rows
        stored = self.tensor.slab(start * each, stop * each).reshape(stop - start, -1)
        if self.tensor.format in kernels.formats():
            return kernels.decode_rows(self.tensor.format, stored, self.cols)
        format = formats.as_row_format(formats.get(self.tensor.format))
        w: Floats = format.decode(*format.unpack(stored, self.cols)).numpy()
        return w

    def slabs(self, most: int) -> list[tuple[int, int]]:
        """Row ranges of about a million numbers that cover the matrix, or `most` numbers of it, spread evenly.

        >>> tensor = StoredTensor("w", "F32", (1 << 16, 256), np.zeros(0, np.uint8))
        >>> Matrix(Path("f"), tensor, 1 << 16, 256).slabs(most=3 << 20)
        [(8192, 12288), (32768, 36864), (53248, 57344)]
        """
        step = max(TILE, SLAB // self.cols // TILE * TILE)
        starts = range(0, self.rows, step)
        wanted = len(starts) if self.rows * self.cols <= most else max(1, most // (step * self.cols))
        chosen = [starts[(2 * n + 1) * len(starts) // (2 * wanted)] for n in range(min(wanted, len(starts)))]
        return [(start, min(start + step, self.rows)) for start in chosen]


def open_matrix(place: str) -> Matrix:
    """The tensor at `place`, FILE:NAME; FILE is a GGUF or safetensors file, or a directory of safetensors files.

    Raises CheckpointError, one sentence, when there is no such file or tensor, or it holds no weights.
    """
    file, name = _split(place)
    reader = _reader(file)
    known = reader.names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        hint = f"; there are {len(known)}, such as {', '.join(map(quoted, near))}" if known else "; it holds none"
        where = f"tensor called {quoted(name)}" if name else "tensor without a name; say FILE:NAME"
        raise CheckpointError(f"{file} holds no {where}{hint}. `fewbits inspect` lists them.")
    tensor = reader.read(name)
    if tensor.format not in formats.FORMATS:
        raise CheckpointError(f"tensor {quoted(name)} in {file} is {tensor.format}, which holds no weights to explain.")
    if not tensor.elements:
        raise CheckpointError(f"tensor {quoted(name)} in {file} has shape {tensor.shape} and holds no number.")
    cols = tensor.shape[-1] if tensor.shape else 1
    return Matrix(file, tensor, prod(tensor.shape[:-1]), cols)


def _split(place: str) -> tuple[Path, str]:
    """FILE:NAME at the first colon that ends the name of something that exists: either may have colons of its own."""
    for position in (n for n, letter in enumerate(place) if letter == ":"):
        if Path(place[:position]).exists():
            return Path(place[:position]), place[position + 1 :]
    if Path(place).exists():
        return Path(place), ""
    raise CheckpointError(
        f"{place.rsplit(':', 1)[0]} does not exist; say FILE:NAME, a GGUF or safetensors file and a tensor."
    )


def _reader(file: Path) -> Reader:
    if file.is_dir():
        return open_directory(file)[0]
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic == MAGIC:
        return open_gguf(file)
    if file.suffix == ".safetensors":
        return SafetensorsReader(file)
    raise CheckpointError(f"{file} is neither a GGUF nor a safetensors file; give one of these, or a model directory.")


def walk(matrix: Matrix, slabs: list[tuple[int, int]]) -> Iterator[Floats]:
    """Slab after slab; raises CheckpointError where a number is NaN or infinite."""
    for start, stop in slabs:
        w = matrix.floats(start, stop)
        if not np.isfinite(w).all():
            raise CheckpointError(
                f"tensor {quoted(matrix.tensor.name)} in {matrix.file} holds NaN or infinite numbers "
                f"in rows {start} to {stop - 1}; no format stores these."
            )
        yield w
