"""Texts through an encoder: states of their tokens, and one embedding of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.pooling import NUMBERS, key_of, mode_of
from fewbits.errors import EngineError
from fewbits.kernels.module import native_module

if TYPE_CHECKING:
    from fewbits.engine.model import Model

Floats = npt.NDArray[np.float32]

TOGETHER = 512
"""Tokens of several texts that go through the program at once; a longer text goes alone."""


def states_of(model: Model, texts: Sequence[Sequence[int]]) -> list[Floats]:
    """States (tokens, hidden) of each of some texts of token ids; raises EngineError for one that cannot be read."""
    if not model.encoder:
        raise EngineError(f"{model.path} continues text and is no encoder; it has no states of a whole text.")
    for text in texts:
        if not 0 < len(text) <= model.context:
            raise EngineError(f"{model.path} reads 1 to {model.context} tokens, and a text has {len(text)}.")
    return [states for group in _groups(texts) for states in _run(model, group)]


def embeddings_of(model: Model, texts: Sequence[str | Sequence[int]], pooling: str | None) -> Floats:
    """Embeddings (texts, hidden) of texts or of their token ids, as the model pools states, or as `pooling` says."""
    mode = pooling or _stated_pooling(model)
    if mode not in NUMBERS:
        raise EngineError(f"states are pooled by {', '.join(NUMBERS)}, not by {mode!r}.")
    ids = [tokens_of(model, text) if isinstance(text, str) else text for text in texts]
    pooled = [_pooled(states, mode) for states in states_of(model, ids)]
    return np.stack(pooled) if pooled else np.empty((0, model.source.values["hidden_size"]), np.float32)


def tokens_of(model: Model, text: str) -> list[int]:
    """Token ids of `text` between those that its tokenizer puts around it; CheckpointError where there is none."""
    from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf

    ids: list[int] = tokenizer_from_gguf(model.source.reader.metadata).encode(text).ids
    return ids


def _stated_pooling(model: Model) -> str:
    stated = model.source.reader.metadata.get(key_of(model.source.architecture.gguf))
    mode = None if stated is None else mode_of(stated.value)
    if mode is None:
        raise EngineError(
            f"{model.path} does not say how states become one embedding; say it by pooling: {', '.join(NUMBERS)}."
        )
    return mode


def _pooled(states: Floats, mode: str) -> Floats:
    mean: Floats = states.astype(np.float64).mean(0).astype(np.float32)
    rows: dict[str, Floats] = {"mean": mean, "cls": states[0], "last": states[-1]}
    return rows[mode]


def _groups(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Texts that are read at once, in their order."""
    group: list[Sequence[int]] = []
    for text in texts:
        if group and sum(map(len, group)) + len(text) > TOGETHER:
            yield group
            group = []
        group.append(text)
    if group:
        yield group


def _run(model: Model, texts: list[Sequence[int]]) -> list[Floats]:
    model.stamp.require_same()
    lengths = [len(text) for text in texts]
    total = sum(lengths)
    session = native_module().Session(model.machine, len(texts), max(lengths), total, model.cached_as(None))
    tokens = np.concatenate([np.asarray(text, np.int32) for text in texts])
    sequences = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    states = np.empty((total, model.source.values["hidden_size"]), np.float32)
    session.run(tokens, sequences, positions, np.arange(total, dtype=np.int32), model.output.buffer, states)
    return np.split(states, np.cumsum(lengths)[:-1])
