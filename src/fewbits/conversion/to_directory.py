"""Into a model directory, in our dialect or another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.dialects import OWN, Dialect, require_held
from fewbits.checkpoints.directory_layout import DirectoryLayout, plan_directory
from fewbits.checkpoints.equivalents import BY_ROWS
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.model_directory import DirectoryWriter
from fewbits.checkpoints.partial_file import partial_path
from fewbits.conversion.job import METHOD, Job, Piece, planned_tensor, preview_of
from fewbits.conversion.sources import Source
from fewbits.digest import OutputDigest
from fewbits.formats import Fields
from fewbits.verification.files import verify_dialect, verify_fields
from fewbits.verification.matrices import Expectation, Inputs
from fewbits.workers import Workers


def to_directory(source: Source, output: Path, dialect: Dialect | None, largest: int | None) -> Job:
    """A model directory in `dialect`, or our own, with weights in files of at most `largest` bytes."""
    stored = [source.reader.read(name) for name in source.reader.names()]
    rows = [_matrix(each, dialect) for each in stored]
    if dialect is not None:
        require_held(dialect, rows)
    layout = plan_directory(source.folder, (), rows, METHOD, {}, dialect, quantized=True, largest=largest)
    pieces = tuple(_directory_piece(source, each, row) for each, row in zip(stored, rows, strict=True))
    preview = preview_of(source, output, pieces, layout.size, dialect.name if dialect else OWN)
    return Job(
        output=output,
        preview=replace(preview, parts=tuple(file.name for file in layout.files) if layout.index else ()),
        pieces=pieces,
        files=source.files,
        size=layout.size,
        open=lambda: DirectoryWriter(output, layout),
        verify=partial(_verify_directory, output, layout),
    )


def _matrix(stored: StoredMatrix | StoredTensor, dialect: Dialect | None) -> Matrix:
    """What the target states of a tensor: under its other name where the dialect holds only that."""
    if not isinstance(stored, StoredMatrix):
        return Matrix(stored.name, stored.format, stored.shape)
    plain = Matrix(**{key: value for key, value in vars(stored).items() if key not in ("bytes", "load")})
    pair = BY_ROWS.get(stored.format)
    return replace(plain, format=pair.fields) if pair and dialect else plain


def _directory_piece(source: Source, stored: StoredMatrix | StoredTensor, row: Matrix) -> Piece:
    inputs = Inputs(row.activation, row.outliers)
    expected = Expectation(source.numbers.read(stored.name), None, row.format, 0.0, inputs=inputs)
    fields: Callable[[], Fields]
    if not isinstance(stored, StoredMatrix):
        fields = partial(_plain, stored)
    elif stored.format == row.format:
        fields = stored.load
    else:
        fields = partial(_moved, stored)
    return Piece(planned_tensor(stored.name, stored, row.format), expected, fields, stored.name)


def _plain(stored: StoredTensor) -> Fields:
    return {"data": stored.slab(0, stored.rows)}


def _moved(stored: StoredMatrix) -> Fields:
    return BY_ROWS[stored.format].to_fields(stored.load()["data"])


def _verify_directory(
    output: Path,
    layout: DirectoryLayout,
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    written = partial_path(output)
    if layout.dialect is None:
        return verify_fields(written, layout.weights(written), expected, workers, progress)
    return verify_dialect(written, layout.weights(written), expected, workers, progress)
