"""Calibration text as windows of tokens: what is given, or a mix that every installation can put together."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.calibration.documents import Document, Part, Source, given, size
from fewbits.calibration.files import read_source
from fewbits.calibration.mix import default_mix
from fewbits.calibration.packing import (
    CHARACTERS_PER_TOKEN,
    Ids,
    Tokenizer,
    apportioned,
    check_sizes,
    even_choice,
    evenly_begun,
    packed,
    rendered,
    thinned,
    token_stream,
)
from fewbits.errors import CalibrationError


@dataclass(frozen=True)
class CalibrationData:
    """Windows of tokens, where they come from, and what a person should know about them."""

    windows: Ids
    """(windows, length) int64, in an order of which any beginning covers the whole text."""
    fingerprint: dict[str, Any]
    """For the card, as JSON: SHA-256 of the ids (int64, little-endian), sizes, seed, and each source with its own."""
    notes: tuple[str, ...] = ()
    """Sentences about what is not as it was asked for."""


def read_calibration(
    source: str | os.PathLike[str] | Iterable[object] | None,
    tokenizer: Tokenizer,
    *,
    length: int = 512,
    windows: int = 128,
    seed: int = 0,
) -> CalibrationData:
    """At most `windows` windows of `length` tokens from all over `source`.

    `source` is None (the built-in mix), a path (str or PathLike), or an iterable of PathLikes, of strings (which are
    texts then) or of rows of a data set. A path is a text file, JSON Lines or JSON of rows, Parquet or Arrow, or a
    directory of such. The choice depends on `seed` and on nothing else. Raises CalibrationError where no window can be
    made, saying why.

    >>> class Letters:
    ...     start_token = 0
    ...     def encode(self, text): return [ord(letter) for letter in text]
    >>> data = read_calibration(["how many", "roads must"], Letters(), length=8, windows=2)
    >>> data.windows.tolist()
    [[0, 109, 97, 110, 121, 0, 114, 111], [0, 100, 115, 32, 109, 117, 115, 116]]
    >>> data.fingerprint["tokens"], data.notes
    (16, ())
    """
    check_sizes(length, windows)
    parts = default_mix(length * windows, seed) if source is None else (Part("given", 1.0, _sources(source)),)
    chance = random.Random(seed)  # noqa: S311 - whoever knows the seed shall know the choice
    pools = [_pool(part, tokenizer, length, windows, chance) for part in parts]
    counts = apportioned(windows, [part.share for part in parts], [len(pool.windows) for pool in pools])
    if not sum(counts):
        raise CalibrationError(_too_short(parts, sum(pool.tokens for pool in pools), length))
    chosen = [pool.windows[even_choice(len(pool.windows), n, chance)] for pool, n in zip(pools, counts, strict=True)]
    ids = np.concatenate(chosen)
    ids = ids[evenly_begun(len(ids))]
    notes = [remark for part in parts for each in part.sources for remark in each.remarks]
    notes += _without_template(parts, tokenizer) if source is not None else []
    if len(ids) < windows:
        notes.append(
            f"{windows} windows of {length} tokens were wanted and the text holds {len(ids)}; more of it would help"
        )
    return CalibrationData(ids, _fingerprint(ids, parts, counts, seed), tuple(notes))


def _sources(source: str | os.PathLike[str] | Iterable[object]) -> tuple[Source, ...]:
    """What was given, checked to hold any text."""
    if isinstance(source, str | os.PathLike):
        sources: tuple[Source, ...] = (read_source(Path(source)),)
    else:
        items = list(source)
        paths = [item for item in items if isinstance(item, os.PathLike)]
        if paths and len(paths) < len(items):
            raise CalibrationError("calibration text is given as paths or as strings, not as both; make them one.")
        _refuse_names(items)
        sources = tuple(read_source(Path(p)) for p in paths) or (given(items, "the texts given"),)
    for each in sources:
        if not any(_has_text(document) for document in each.documents):
            raise CalibrationError(f"{each.name}: the calibration text is empty; give one of at least some pages.")
    return sources


def _refuse_names(items: list[object]) -> None:
    """A list of strings is a list of texts; who meant the names of files would calibrate on the names."""
    names = [item for item in items if isinstance(item, str) and len(item) < 1024 and "\n" not in item]
    if names and len(names) == len(items) and all(map(os.path.exists, names)):
        raise CalibrationError(
            f"{names[0]!r} is the name of a file and would be taken as a text; give a list of pathlib.Path instead."
        )


def _has_text(document: Document) -> bool:
    return bool(document.strip()) if isinstance(document, str) else size(document) > 0


@dataclass(frozen=True)
class _Pool:
    """All windows that a part can give, and how many tokens it had."""

    windows: Ids
    tokens: int


def _pool(part: Part, tokenizer: Tokenizer, length: int, windows: int, chance: random.Random) -> _Pool:
    documents = [document for source in part.sources for document in source.documents]
    piece = CHARACTERS_PER_TOKEN * length
    documents = thinned(documents, piece * windows, piece, chance)
    ids = token_stream(documents, tokenizer)
    closing = getattr(tokenizer, "closing_token", None)
    return _Pool(packed(ids, length, tokenizer.start_token, chance, closing), ids.size)


def _without_template(parts: tuple[Part, ...], tokenizer: Tokenizer) -> list[str]:
    """What to say of conversations that no chat template put into the form that the model knows."""
    conversations = [d for part in parts for each in part.sources for d in each.documents if not isinstance(d, str)]
    if not conversations or rendered(conversations[0], tokenizer) is not None:
        return []
    return [f"the tokenizer has no chat template, so {len(conversations)} conversations were taken as plain text"]


def _too_short(parts: tuple[Part, ...], tokens: int, length: int) -> str:
    names = [source.name for part in parts for source in part.sources]
    name = names[0] if len(names) == 1 else f"the {len(names)} calibration texts"
    return f"{name}: too short to calibrate on: {tokens} tokens, and one window needs {length}; give a longer text."


def _fingerprint(ids: Ids, parts: tuple[Part, ...], counts: list[int], seed: int) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
        "tokens": int(ids.size),
        "windows": len(ids),
        "length": int(ids.shape[1]),
        "seed": seed,
        "parts": [
            {
                "name": part.name,
                "share": part.share,
                "windows": count,
                "sources": [{"name": source.name, "sha256": source.sha256} for source in part.sources],
            }
            for part, count in zip(parts, counts, strict=True)
        ],
    }
