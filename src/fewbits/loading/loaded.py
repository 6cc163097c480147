"""What became of a stored model's tensors when it was loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fewbits.loading.packing import Packing
from fewbits.loading.pieces import is_quantized
from fewbits.loading.stored import Stored


@dataclass(frozen=True)
class Loaded:
    """How a network's matrices are held."""

    path: Path
    dialect: str
    """"gguf", the name of a directory's dialect, or "" for one that is not quantized."""
    formats: Mapping[str, int]
    """Format -> how many matrices are packed in it; tied ones count once."""
    bytes: int
    """Of all packed matrices."""
    activations: Mapping[str, int]
    """Rounding of inputs -> how many modules do it."""
    decoded: tuple[str, ...]
    """Names of what is stored in a format and held as plain numbers."""
    notes: tuple[str, ...]
    """What is otherwise than one would expect, one sentence each."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Module -> relative error of its weight, where it was quantized while it was loaded."""


def loaded(stored: Stored) -> Loaded:
    """What became of the pieces of `stored`, which transformers has loaded by now."""
    matrices = stored.matrices.values()
    decoded = tuple(name for name, piece in stored.left.items() if is_quantized(piece))
    return Loaded(
        path=stored.source.path,
        dialect=stored.source.dialect,
        formats=Counter(matrix.format for matrix in matrices),
        bytes=sum(matrix.bytes for matrix in matrices),
        activations=Counter(str(each.activation) for each in stored.rounding),
        decoded=decoded,
        notes=(*stored.notes, *_notes(stored.source.path, decoded)),
    )


def quantized(path: Path, packing: Packing) -> Loaded:
    """What became of weights that were packed while transformers read them."""
    return Loaded(
        path=path,
        dialect=packing.plan.dialect,
        formats=Counter(matrix.format for matrix in packing.matrices.values()),
        bytes=sum(matrix.bytes for matrix in packing.matrices.values()),
        activations=Counter(str(each.activation) for each in packing.rounding),
        decoded=(),
        notes=packing.plan.notes,
        errors=packing.errors,
    )


def _notes(path: Path, decoded: tuple[str, ...]) -> tuple[str, ...]:
    if not decoded:
        return ()
    count = f"{len(decoded)} tensors are" if len(decoded) > 1 else "1 tensor is"
    first = f"{decoded[0]}, ..." if len(decoded) > 1 else decoded[0]
    note = (
        f"{path}: {count} decoded and held as plain numbers ({first}): their modules keep no matrix of their own, as "
        "experts in stacks."
    )
    return (note,)
