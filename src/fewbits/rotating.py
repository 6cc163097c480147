"""A source whose whole model is rotated before anything else looks at it.

What the rotation makes of every tensor lies in float32 in a mapped file of its own until the output is there: walks and
writers read it as they read any source, one layer or one slab of rows at a time.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import kernels
from fewbits.checkpoints.base import Bytes, Conversion, Placement, StoredTensor
from fewbits.checkpoints.configuration import read_configuration
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError, TransformError
from fewbits.evaluation.gguf_config import read_config
from fewbits.models import Architecture, for_gguf
from fewbits.reporting.record import PlannedTensor, RotationUsed
from fewbits.transforms import Hadamard, Stream, stream_of
from fewbits.transforms.edits import Edit, RotatedColumns, RotatedRows
from fewbits.workers import Workers, one_torch_thread, row_slabs

if TYPE_CHECKING:
    import torch

SECONDS = 1.2e-7
"""Of one thread, to turn a number and for the verifier to do it again."""

Edited = Mapping[str, tuple[Edit, ...]]
"""Tensor of the target -> what becomes of it, in this order."""


@dataclass(frozen=True)
class Rotating:
    """A source and the rotation of its whole model, decided; of weights only the gains of norms were read."""

    used: RotationUsed
    conversion: Conversion
    """The source; where its head was tied it has one of its own, whose numbers are the embedding's so far."""
    edited: Edited

    @property
    def bytes(self) -> int:
        """What the rotated numbers take on the disk until the output is there."""
        return sum(4 * p.source.elements for p in self.conversion.placements if p.name in self.edited)

    def seconds(self, threads: int) -> float:
        """Expected seconds of turning, and of the verifier's turning again."""
        return SECONDS * self.bytes / 4 / threads

    def planned(self, tensor: PlannedTensor) -> PlannedTensor:
        """The plan of a tensor: kept vectors that are turned do not fit into the 16 bits that they came in."""
        turned = any(isinstance(edit, RotatedRows) for edit in self.edited.get(tensor.name, ()))
        if tensor.quantizable or not turned:
            return tensor
        return replace(tensor, format="F32", bytes_out=4 * tensor.parameters)

    @contextmanager
    def placements(
        self, output: Path, workers: Workers, progress: Callable[[int, int], None]
    ) -> Iterator[dict[str, Placement]]:
        """Target -> placement of all tensors, rotated, until the end of the block; their disk is taken beside `output`.

        Raises CheckpointError where a tensor holds NaN or infinite numbers.
        """
        with _scratch(output, self.bytes) as room:
            placements = {p.name: p for p in self.conversion.placements}
            position = 0
            for name in self.edited:
                size = 4 * placements[name].source.elements
                placements[name] = _at(placements[name], room[position : position + size])
                position += size
            self._fill(placements, workers, progress)
            yield placements

    def _fill(
        self, placements: Mapping[str, Placement], workers: Workers, progress: Callable[[int, int], None]
    ) -> None:
        sources = {p.name: p.source for p in self.conversion.placements}

        def turn(piece: _Piece) -> None:
            _turn(sources[piece.name], placements[piece.name].source, self.edited[piece.name], piece)

        done, total = 0, self.bytes
        pieces = (piece for name, edits in self.edited.items() for piece in _pieces(name, sources[name], edits))
        with one_torch_thread():
            for piece, _ in workers.in_order(turn, pieces):
                done += 4 * piece.size
                progress(done, total)


def rotating(conversion: Conversion, rotation: Hadamard) -> Rotating:
    """Decide what `rotation` makes of each tensor of `conversion`; raises TransformError where it cannot be rotated."""
    architecture, config, names = _described(conversion)
    if architecture.encoder:
        raise TransformError(
            f"encoders ({architecture.name}) cannot be rotated: their norms subtract a mean from the residual stream "
            "itself; leave hadamard out of --method."
        )
    if architecture.experts:
        raise TransformError(f"experts ({architecture.name}) cannot be rotated yet; leave hadamard out of --method.")
    if not architecture.stream.writers:
        raise TransformError(
            f"the residual stream of this architecture ({architecture.name}) cannot be rotated exactly; leave hadamard "
            "out of --method."
        )
    placed = {names[p.name]: p for p in conversion.placements if p.name in names}
    stream = stream_of(architecture, config, placed)
    gains = {norm: _numbers(placed[norm].source, (0, placed[norm].source.rows), (0, 1)) for norm in stream.readers}
    edits = rotation.edits(stream, gains)
    heads = _heads(architecture, stream, placed)
    steps: dict[str, list[Edit]] = {}
    for edit in edits.steps:
        target = heads[edit.tensor].name if edit.tensor in heads else placed[edit.tensor].name
        steps.setdefault(target, []).append(edit)
    placements = (*conversion.placements, *heads.values())
    _require_turned(placements, steps)
    what = "; ".join(("its residual stream, and the values of every head", *edits.remarks))
    note = f"The whole model is rotated first ({rotation.name}, seed {rotation.seed}): {what}."
    changed = replace(
        conversion,
        placements=placements,
        notes=(*conversion.notes, note),
        configuration={**conversion.configuration, **edits.configuration},
    )
    used = RotationUsed(rotation.name, rotation.seed)
    return Rotating(used, changed, {target: tuple(each) for target, each in steps.items()})


def _described(conversion: Conversion) -> tuple[Architecture, Mapping[str, Any], dict[str, str]]:
    """Architecture, configuration, and target -> name in transformers of every tensor that the facts know."""
    first = conversion.files[0]
    if first.name == "config.json":
        directory = read_configuration(first.parent)
        facts = directory.architecture.facts(directory.values, directory.layers)
        return directory.architecture, directory.values, {target: source for target, (source, _) in facts.items()}
    config = read_config(open_gguf(first))
    architecture = for_gguf(conversion.architecture, experts=bool(config.values.get("num_local_experts")))
    return architecture, config.values, {target: source for target, (source, _) in config.facts.items()}


def _heads(architecture: Architecture, stream: Stream, placed: Mapping[str, Placement]) -> dict[str, Placement]:
    """Name in transformers -> placement of what was tied: the target's name is in the facts."""
    targets = {fact.source: fact.gguf for fact in architecture.tensors}
    found = {}
    for name, taken in stream.untied.items():
        source = placed[taken].source
        own = name if source.name == taken else targets[name]
        found[name] = Placement(targets[name], replace(source, name=own))
    return found


def _require_turned(placements: tuple[Placement, ...], steps: Mapping[str, list[Edit]]) -> None:
    """Refuse what the facts do not place in the stream: a matrix left as it is would compute something else."""
    for placement in placements:
        edits, shape = steps.get(placement.name, []), placement.source.shape
        if placement.computed or (len(shape) == 1 and not edits):
            continue
        moved = placement.order is not None and any(isinstance(edit, RotatedRows) for edit in edits)
        if not edits or len(shape) > 2 or moved:
            raise TransformError(
                f"it is not known how tensor {quoted(placement.source.name)} would be rotated with the rest of the "
                "model; leave hadamard out of --method."
            )


@contextmanager
def _scratch(output: Path, size: int) -> Iterator[Bytes]:
    """`size` bytes of a file beside `output` that nobody sees, and nothing is left of."""
    path = output.with_name(f".{output.name}.rotated")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with contextlib.suppress(PermissionError):  # Windows keeps the name of a file that is open
            path.unlink()
        if hasattr(os, "posix_fallocate"):  # a full disk would end a mapped write with a signal
            os.posix_fallocate(descriptor, 0, size)
        else:  # pragma: no cover - macOS and Windows
            os.ftruncate(descriptor, size)
        yield np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
    finally:
        os.close(descriptor)
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)


def _at(placement: Placement, room: Bytes) -> Placement:
    own = placement.source
    return replace(placement, source=StoredTensor(own.name, "F32", own.shape, room))


@dataclass(frozen=True)
class _Piece:
    """Rows and columns of a tensor that can be turned without the others."""

    name: str
    rows: tuple[int, int]
    cols: tuple[int, int]

    @property
    def size(self) -> int:
        """How many numbers."""
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])


def _pieces(name: str, source: StoredTensor, edits: tuple[Edit, ...]) -> Iterator[_Piece]:
    """Slabs of rows, heads never divided; slabs of columns where all rows are mixed and not all columns are."""
    together = max((edit.rotation.size for edit in edits if isinstance(edit, RotatedRows)), default=1)
    if together < source.rows or len(source.shape) == 1:
        for start, stop in row_slabs(source.rows, 4 * source.cols, together=together):
            yield _Piece(name, (start, stop), (0, source.cols))
        return
    apart = all(isinstance(edit, RotatedRows | RotatedColumns) for edit in edits)
    width = max((edit.rotation.size for edit in edits if isinstance(edit, RotatedColumns)), default=1)
    for start, stop in row_slabs(source.cols, 4 * source.rows, together=width if apart else source.cols):
        yield _Piece(name, (0, source.rows), (start, stop))


def _turn(source: StoredTensor, target: StoredTensor, edits: tuple[Edit, ...], piece: _Piece) -> None:
    """Write a piece of `target`, computed in float64 and rounded once."""
    w = _numbers(source, piece.rows, piece.cols).double()
    for edit in edits:
        w = edit.applied(w)
    out = target.slab(*piece.rows).view(np.float32)
    out[:, slice(*piece.cols)] = w.float().reshape(len(out), -1).numpy()


def _numbers(source: StoredTensor, rows: tuple[int, int], cols: tuple[int, int]) -> torch.Tensor:
    """Rows and columns of `source` as float32, (rows, cols) or (rows,); raises CheckpointError where some are none."""
    import torch

    width = source.row_bytes // source.cols  # plain numbers
    slab = np.ascontiguousarray(source.slab(*rows)[:, cols[0] * width : cols[1] * width])
    odd = kernels.extent(slab, source.format)[1]
    if odd:
        raise CheckpointError(
            f"tensor {quoted(source.name)} of the source holds {odd} NaN or infinite numbers in its rows {rows[0]} to "
            f"{rows[1] - 1}; the checkpoint is damaged or was trained to divergence: repair or replace it."
        )
    w = torch.from_numpy(kernels.decode_rows(source.format, slab, cols[1] - cols[0]))
    return w if len(source.shape) > 1 else w.flatten()
