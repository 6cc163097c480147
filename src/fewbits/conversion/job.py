"""What is decided before any weight is moved: tensors, their fields, and what must be found in the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.equivalents import BY_FIELDS, BY_ROWS
from fewbits.checkpoints.fields import PLAIN, StoredMatrix
from fewbits.conversion.sources import Source
from fewbits.digest import OutputDigest
from fewbits.formats import Fields
from fewbits.memory import resident_memory
from fewbits.reporting.record import PlannedTensor, Preview
from fewbits.targets import Writer
from fewbits.verification.matrices import Expectation
from fewbits.workers import Workers

RATE = 1e8
"""Bytes per second that are read, moved, hashed and read again, about; bench/convert.py prints what they are."""
METHOD = "converted"


@dataclass(frozen=True)
class Piece:
    """One tensor of the output: where it comes from, and how its fields are made."""

    planned: PlannedTensor
    expected: Expectation
    fields: Callable[[], Fields]
    name: str
    """What the container calls it."""


@dataclass(frozen=True)
class Job:
    """Everything decided before any weight is moved."""

    output: Path
    preview: Preview
    pieces: tuple[Piece, ...]
    files: tuple[Path, ...]
    size: int
    open: Callable[[], Writer]
    verify: Callable[[Mapping[str, Expectation], Workers, Callable[[int, int], None]], OutputDigest]


def planned_tensor(name: str, stored: StoredMatrix | StoredTensor, format_name: str) -> PlannedTensor:
    """`stored` as the tensor `name` of the target, for preview and card."""
    rows, cols = _sides(stored.shape)
    outliers, activation = getattr(stored, "outliers", 0), getattr(stored, "activation", None)
    return PlannedTensor(
        name=name,
        source_name=stored.name,
        shape=stored.shape,
        source_format=stored.format,
        format=format_name,
        method=METHOD,
        nominal=False,
        quantizable=stored.format not in PLAIN,
        fallback=None,
        bytes_in=stored.bytes,
        bytes_out=formats.bits(formats.get(format_name), rows, cols) // 8,
        activation=activation,
        outliers=outliers,
    )


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    stored = StoredTensor("", "", shape, np.empty(0, np.uint8))
    return stored.rows, stored.cols


def commonest(planned: list[PlannedTensor]) -> str:
    """The format of most parameters."""
    counts: Counter[str] = Counter()
    for each in planned:
        counts[each.format] += each.parameters
    return counts.most_common(1)[0][0] if counts else "F32"


def preview_of(source: Source, output: Path, pieces: tuple[Piece, ...], size: int, container: str) -> Preview:
    """What will be done: `size` bytes of weights in `container`."""
    nominal = commonest([piece.planned for piece in pieces])
    tensors = tuple(replace(p.planned, nominal=p.planned.format == nominal) for p in pieces)
    renamed = sorted({f"{p.source_format} as {p.format}" for p in tensors if _renamed(p)})
    notes = [f"The same numbers under another name: {', '.join(renamed)}."] if renamed else []
    largest = max((p.bytes_in + p.bytes_out for p in tensors), default=0)
    return Preview(
        source=source.given,
        output=str(output),
        recipe=f"{container}, nothing rounded",
        nominal_format=nominal,
        architecture=source.dialect or "safetensors",
        tensors=tensors,
        notes=(*source.notes, *notes),
        bytes_in=sum(p.bytes_in for p in tensors),
        bytes_out=size,
        seconds_estimated=size / RATE,
        memory_estimated=resident_memory() + 4 * largest,
    )


def _renamed(planned: PlannedTensor) -> bool:
    pair = BY_ROWS.get(planned.source_format) or BY_FIELDS.get(planned.source_format)
    return pair is not None and planned.format != planned.source_format
