"""What a training reads: windows to learn from and windows that are held out, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.errors import TrainingError
from fewbits.training.material.data import TEXT, Samples, read_samples
from fewbits.training.material.windows import SHORTEST, Windows, apart, held_out, packed
from fewbits.training.material.words import Example, Words

MOST_HELD = 64
"""Windows that losses before and after are measured on."""


@dataclass(frozen=True)
class Reading:
    """How data become windows."""

    data: str | Path
    field: str | None = None
    """Of lines of JSON; None: what the first line has."""
    template: str | None = None
    """How conversations are written: the name of a chat template that comes along, or a file; None: the model's own."""
    validation: str | Path | None = None
    """Data that are held out; None: a part of `data`."""
    hold_out: float = 0.05
    """The share of `data` that is held out where there is no `validation`."""
    length: int | None = None
    """Tokens of a window; None: 512, or what the model was made for."""
    batch: int = 4
    """Windows that the model sees at once."""
    packing: bool | None = None
    """Whether windows are filled with one sample after another; None: texts are, conversations and pairs are not."""
    cut: bool = False
    """Whether a sample that is longer than a window is cut."""

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out < 1:
            raise TrainingError(f"hold_out={self.hold_out} is not a share of the data (0 to below 1); correct it.")


@dataclass(frozen=True)
class Material:
    """Windows, and what is said of them."""

    train: Windows
    held: Windows
    facts: dict[str, Any]
    """As JSON: files with their SHA-256, how they were read, how many windows and tokens."""
    notes: tuple[str, ...]


def read_material(reading: Reading, words: Words, seed: int) -> Material:
    """The windows of `reading` in the tokens of a model, `seed` choosing what is held out; or a TrainingError."""
    length = _length(reading.length, words)
    samples = read_samples(Path(reading.data), reading.field)
    examples = words.examples(samples)
    packs = samples.kind == TEXT if reading.packing is None else reading.packing
    if reading.validation is not None:
        others = read_samples(Path(reading.validation), reading.field if samples.fields else None)
        train = _windows(examples, length, packs, reading.cut)
        held = _windows(words.examples(others), length, packs, reading.cut)
    else:
        others = None
        kept, apart_from_it = held_out(examples, reading.hold_out, seed)
        train = _windows(kept, length, packs, reading.cut)
        held = _windows(apart_from_it, length, packs, reading.cut)
        if not len(held):
            train, held = train.split(reading.hold_out)
    notes = (*train.notes, *(f"held out: {note}" for note in held.notes), *_notes(reading, held))
    held = Windows(held.windows[:MOST_HELD])
    return Material(train, held, _facts(reading, samples, others, train, held, length, packs), notes)


def _length(asked: int | None, words: Words) -> int:
    if asked is None:
        return min(512, words.limit)
    if asked > words.limit:
        raise TrainingError(
            f"windows of {asked} tokens are longer than {words.path} was made for ({words.limit}); give at most that."
        )
    if asked < SHORTEST:
        raise TrainingError(f"windows of {asked} tokens are too short; give at least {SHORTEST}.")
    return asked


def _windows(examples: Sequence[Example], length: int, packs: bool, cut: bool) -> Windows:
    if not examples:
        return Windows(())
    return packed(examples, length) if packs else apart(examples, length, cut=cut)


def _notes(reading: Reading, held: Windows) -> list[str]:
    notes = []
    if not len(held) and (reading.hold_out or reading.validation):
        notes.append(f"{reading.data} has one window alone, so that none is held out: give more data, or --validation")
    if len(held) > MOST_HELD:
        notes.append(f"losses before and after are measured on {MOST_HELD} of {len(held)} windows that are held out")
    return notes


def _facts(
    reading: Reading, samples: Samples, others: Samples | None, train: Windows, held: Windows, length: int, packs: bool
) -> dict[str, Any]:
    return {
        "file": samples.name,
        "file_sha256": samples.sha256,
        "kind": samples.kind,
        "fields": list(samples.fields),
        "samples": len(samples),
        "validation": None if others is None else others.name,
        "validation_sha256": None if others is None else others.sha256,
        "hold_out": reading.hold_out if others is None else None,
        "length": length,
        "batch": reading.batch,
        "packing": packs,
        "cut": reading.cut,
        "windows": len(train),
        "tokens": train.tokens,
        "learned": train.learned,
        "sha256": train.sha256(),
        "held_windows": len(held),
        "held_tokens": held.learned,
    }
