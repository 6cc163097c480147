"""A loaded model, and sessions that read tokens and say what follows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.engine.building import Builder, Place
from fewbits.engine.decoder import write_decoder
from fewbits.engine.source import Source, open_model
from fewbits.errors import EngineError
from fewbits.kernels.module import native_module

Floats = npt.NDArray[np.float32]

CACHES = ("F32", "F16", "Q8_0", "Q4_0")
"""What keys and values can be kept in."""
BATCH = 512
"""Tokens that go through the program at once."""


def load(path: Path, *, threads: int | None = None, exact: bool = False, mapped: bool = False) -> Model:
    """Open the model in `path` for running; weights are repacked when they are first used.

    `exact` multiplies with unrounded numbers; `mapped` keeps weights as they lie in the file, which takes less memory
    and more time. Raises CheckpointError, EvaluationError or EngineError where the model cannot be run.
    """
    source = open_model(Path(path))
    machine = native_module().Machine(threads or _processors(), exact=exact, keep_stored=mapped)
    build = Builder(source, machine)
    logits = write_decoder(build)
    return Model(source, machine, logits, tuple(build.kept), exact)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Model:
    """A model whose program is built."""

    source: Source
    machine: Any
    logits: Place
    kept: tuple[Any, ...]
    exact: bool

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.source.path

    @property
    def architecture(self) -> str:
        """Its architecture's name."""
        return self.source.architecture.name

    @property
    def vocabulary(self) -> int:
        """Numbers of a row of logits."""
        return int(self.source.values["vocab_size"])

    @property
    def context(self) -> int:
        """Most tokens that the model was made for."""
        return int(self.source.values["max_position_embeddings"])

    def cache_bytes(self, context: int, cache: str, sequences: int = 1) -> int:
        """Bytes of the keys and values of `sequences` sequences of `context` tokens."""
        values = self.source.values
        heads = values["num_hidden_layers"] * values["num_key_value_heads"]
        each: int = native_module().cached_bytes(cache, values["head_dim"])
        return int(2 * heads * each * context * sequences)

    def session(self, *, context: int | None = None, cache: str = "F16", sequences: int = 1) -> Session:
        """Room for `sequences` sequences of up to `context` tokens; raises EngineError where that cannot be."""
        length = self.context if context is None else context
        if not 0 < length <= self.context:
            raise EngineError(
                f"{self.path}: a context of {length} tokens was asked for, and the model was made for 1 to "
                f"{self.context}."
            )
        if cache not in CACHES:
            raise EngineError(f"a cache holds {', '.join(CACHES)}, not {cache!r}.")
        kind = "F32" if self.exact and cache == "F16" else cache
        try:
            native = native_module().Session(self.machine, sequences, length, min(BATCH, length), kind)
        except MemoryError:
            needed = self.cache_bytes(length, kind, sequences) / 2**30
            raise EngineError(
                f"{self.path}: there is no memory for the cache of {length} tokens ({needed:.1f} GiB); "
                "ask for a smaller context."
            ) from None
        return Session(self, native, length, sequences)


class Session:
    """Sequences of tokens that a model has read, each with its keys and values."""

    def __init__(self, model: Model, native: Any, context: int, sequences: int) -> None:
        self.model = model
        self.context = context
        self._native = native
        self._lengths = [0] * sequences

    def length(self, sequence: int = 0) -> int:
        """Tokens of a sequence that were read."""
        return self._lengths[sequence]

    def keep(self, length: int, *, sequence: int = 0) -> None:
        """Forget all but the first `length` tokens of a sequence."""
        if not 0 <= length <= self._lengths[sequence]:
            raise EngineError(f"{length} tokens cannot be kept of {self._lengths[sequence]}.")
        self._lengths[sequence] = length

    def evaluate(self, tokens: Sequence[int], *, sequence: int = 0) -> Floats:
        """Read `tokens` behind what the sequence has; returns the logits (vocabulary,) of what follows the last."""
        last: Floats = self.evaluate_all(tokens, sequence=sequence, last=1)[-1]
        return last

    def evaluate_all(self, tokens: Sequence[int], *, sequence: int = 0, last: int | None = None) -> Floats:
        """The same with the logits (last, vocabulary) behind each of the `last` tokens; of all where it is None."""
        self._require_room(len(tokens), sequence)
        wanted = len(tokens) if last is None else last
        rows = []
        for start in range(0, len(tokens), BATCH):
            part = np.asarray(tokens[start : start + BATCH], np.int32)
            outputs = np.arange(max(0, len(tokens) - wanted - start), len(part), dtype=np.int32)
            rows.append(self._run(part, np.full(len(part), sequence, np.int32), outputs))
        return np.concatenate(rows)

    def evaluate_together(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """Read tokens of several sequences at once, `tokens[i]` of sequence i; logits behind the last of each."""
        for sequence, own in enumerate(tokens):
            self._require_room(len(own), sequence)
        flat = np.concatenate([np.asarray(own, np.int32) for own in tokens])
        sequences = np.repeat(np.arange(len(tokens), dtype=np.int32), [len(own) for own in tokens])
        outputs = (np.cumsum([len(own) for own in tokens]) - 1).astype(np.int32)
        return self._run(flat, sequences, outputs)

    def _run(
        self, tokens: npt.NDArray[np.int32], sequences: npt.NDArray[np.int32], outputs: npt.NDArray[np.int32]
    ) -> Floats:
        positions = np.empty(len(tokens), np.int32)
        for i, sequence in enumerate(sequences):
            positions[i] = self._lengths[sequence]
            self._lengths[sequence] += 1
        logits = np.empty((len(outputs), self.model.vocabulary), np.float32)
        self._native.run(tokens, sequences, positions, outputs, self.model.logits.buffer, logits)
        return logits

    def _require_room(self, count: int, sequence: int) -> None:
        if not count:
            raise EngineError("there are no tokens to read; give at least one.")
        if self._lengths[sequence] + count > self.context:
            raise EngineError(
                f"{self._lengths[sequence] + count} tokens do not fit into the context of {self.context}; "
                "shorten the prompt or ask for a larger context."
            )
