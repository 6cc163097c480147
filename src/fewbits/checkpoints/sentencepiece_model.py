"""Read a SentencePiece model file: the few protobuf fields that matter, without any package.

Field numbers are those of sentencepiece_model.proto (https://github.com/google/sentencepiece).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fewbits.checkpoints.limits import PIECES, SENTENCEPIECE_BYTES
from fewbits.errors import CheckpointError

BPE = 2
"""TrainerSpec.ModelType of byte-pair encoding."""


@dataclass(frozen=True)
class Piece:
    """One token of the model; `kind` is numbered like GGUF's token types."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What the file says about cutting text."""

    pieces: tuple[Piece, ...]
    model_type: int
    normalizer: str
    """Name of the rule that rewrites characters first; "identity" leaves them alone."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


class _DamagedError(ValueError):
    """The bytes are no protobuf message."""


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 64:
        if position >= len(data):
            raise _DamagedError
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise _DamagedError


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of every field: varints as int, everything else as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _DamagedError
        if size > len(data) - position:
            raise _DamagedError
        yield tag >> 3, data[position : position + size]
        position += size


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _DamagedError
    return value


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", _bytes(value))[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    if not 1 <= kind <= 6 or not text:
        raise _DamagedError
    return Piece(text, score, kind)


def _parse(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    rules: dict[int, int | bytes] = {}
    fields = [] if len(data) > SENTENCEPIECE_BYTES else list(islice(_fields(data), PIECES + 1))
    if not 0 < len(fields) <= PIECES:
        raise _DamagedError
    for number, value in fields:
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
        elif number == 3:
            rules = dict(_fields(_bytes(value)))
    kind = trainer.get(3, 1)
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=kind if isinstance(kind, int) else 0,
        normalizer=_bytes(rules.get(1, b"")).decode("utf-8"),
        add_dummy_prefix=bool(rules.get(3, 1)),
        remove_extra_whitespaces=bool(rules.get(4, 1)),
    )


def read_model(path: Path) -> SentencePieceModel:
    """The SentencePiece model in `path`; raises CheckpointError when the file is damaged or of another kind."""
    try:
        with path.open("rb") as file:
            model = _parse(file.read(SENTENCEPIECE_BYTES + 1))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (_DamagedError, UnicodeDecodeError, struct.error):
        model = None
    if model is None or not model.pieces:
        raise CheckpointError(f"{path} is no SentencePiece model, or a damaged one; download it again.")
    return model
