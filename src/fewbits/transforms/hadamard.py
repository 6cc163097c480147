"""Rotations that fold into neighbouring weights: no channel sticks out any more, and the model computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule
from fewbits.transforms.edits import Edit, Edits, Filled, RotatedColumns, RotatedRows, ScaledColumns
from fewbits.transforms.groups import Stream
from fewbits.transforms.rotation import Rotation

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class Hadamard:
    """The residual stream times R1, and the values of every head times R2 (QuaRot: Ashkboos et al. 2024,
    arXiv:2404.00456, section 4, stages 1a and 1c, without what has to be computed while the model runs).

    Norms without gains do not see a rotation, so gains go into the columns behind them first. A tied head needs numbers
    of its own then, since the embedding stands before the last norm and the head behind it. Raises TransformError for a
    width that no known Hadamard matrix has.
    """

    name: str = "hadamard"
    seed: int = 0

    def edits(self, stream: Stream, gains: Mapping[str, torch.Tensor]) -> Edits:
        """Edits of a whole model; `gains` brings the norms of `stream.readers` by name."""
        whole = Rotation(stream.width, self.seed)
        remarks = ("the output head gets numbers of its own: it shared the embedding's",) if stream.untied else ()
        return Edits(
            (*_folded(stream, gains), *_turned(stream, whole), *self._values(stream)),
            stream.untied,
            {"tie_word_embeddings": False} if stream.untied else {},
            remarks,
        )

    def _values(self, stream: Stream) -> Iterator[Edit]:
        """What v_proj gives, turned in every head alike, and turned back by o_proj."""
        for place, group in enumerate(stream.values):
            rotation = Rotation(stream.head, self.seed + 1 + place)
            yield from (RotatedRows(name, rotation) for name in group.producers)
            yield from (RotatedColumns(name, rotation) for name in group.consumers)


def _folded(stream: Stream, gains: Mapping[str, torch.Tensor]) -> Iterator[Edit]:
    """Gains of norms as factors of the columns behind them."""
    for norm, readers in stream.readers.items():
        yield from (ScaledColumns(name, gains[norm].double()) for name in readers)
        yield Filled(norm, 1.0)


def _turned(stream: Stream, rotation: Rotation) -> Iterator[Edit]:
    yield RotatedColumns(stream.embedding, rotation)
    yield from (RotatedRows(name, rotation) for name in stream.writers)
    for readers in stream.readers.values():
        yield from (RotatedColumns(name, rotation) for name in readers)
