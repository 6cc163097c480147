"""A loaded model, whose program is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.engine.building import Builder, Place
from fewbits.engine.embedding import embeddings_of, states_of
from fewbits.engine.network import write_network
from fewbits.engine.session import BATCH, Session
from fewbits.engine.source import Source, open_model
from fewbits.engine.stamp import Stamp
from fewbits.errors import EngineError
from fewbits.kernels.module import native_module
from fewbits.memory import available_memory
from fewbits.request import Progress
from fewbits.workers import usable_threads

Floats = npt.NDArray[np.float32]

CACHES = ("F32", "F16", "Q8_0", "Q4_0")
"""What keys and values can be kept in."""

_GROUPED, _GROUP = ("Q8_0", "Q4_0"), 32
"""Caches whose numbers share a scale, so many of them."""
_ROOM_FOR_NUMBERS = 1 << 27
"""Bytes of what goes through a program, roughly."""


def load(path: Path, *, threads: int | None = None, exact: bool = False, mapped: bool = False) -> Model:
    """Open the model in `path` for running; weights are repacked when they are first used.

    `exact` multiplies with unrounded numbers; `mapped` keeps weights as they lie in the file, which takes less memory
    and more time. Raises CheckpointError, EvaluationError or EngineError where the model cannot be run.
    """
    stamp = Stamp.of(Path(path)) if Path(path).exists() else Stamp({})
    source = open_model(Path(path), exact=exact)
    machine = native_module().Machine(usable_threads(threads), exact=exact, keep_stored=mapped)
    build = Builder(source, machine)
    output = write_network(build)
    return Model(source, machine, output, exact, stamp, build.multiplied)


@dataclass(frozen=True)
class Model:
    """A model whose program is built."""

    source: Source
    machine: Any
    output: Place
    """Logits (outputs, vocabulary), or an encoder's states (outputs, hidden)."""
    exact: bool
    stamp: Stamp = field(default_factory=lambda: Stamp({}))
    multiplied: tuple[int, ...] = ()
    """The machine's numbers of the weights that products are made of."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.source.path

    @property
    def architecture(self) -> str:
        """Its architecture's name."""
        return self.source.architecture.name

    @property
    def encoder(self) -> bool:
        """Whether it answers with states and embeddings, and continues no text."""
        return self.source.architecture.encoder

    @property
    def panels_bytes(self) -> int:
        """Bytes that weights take, repacked for this processor."""
        return sum(self.machine.panels_bytes(number) for number in self.multiplied)

    def pack(self, progress: Progress) -> None:
        """Repack all weights now, not when each is first used; between two matrices an interrupt is heard."""
        sizes = {number: self.machine.panels_bytes(number) for number in self.multiplied}
        done, total = 0, sum(sizes.values())
        for number, size in sizes.items():
            self.stamp.require_same()
            self.machine.pack(number)
            done += size
            progress("prepare", done, total)

    def states(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        """An encoder's states (tokens, hidden) of each text of token ids; EngineError for one that it cannot read."""
        return states_of(self, texts)

    def embed(self, texts: Sequence[str | Sequence[int]], *, pooling: str | None = None) -> Floats:
        """An encoder's embeddings (texts, hidden) of texts, or of their token ids, which are taken as they are.

        Pooled as the model says or as `pooling` does ("mean", "cls", "last"), and not normalized. Raises EngineError
        where neither says so, or for a text that the model cannot read.
        """
        return embeddings_of(self, texts, pooling)

    @property
    def vocabulary(self) -> int:
        """Numbers of a row of logits."""
        return int(self.source.values["vocab_size"])

    @property
    def context(self) -> int:
        """Most tokens that the model was made for."""
        return int(self.source.values["max_position_embeddings"])

    def cached_as(self, cache: str | None) -> str:
        """What keys and values are kept in: `cache`, or where nobody says F16, and F32 of an exact model."""
        return cache or ("F32" if self.exact else "F16")

    def cache_bytes(self, context: int, cache: str, sequences: int = 1) -> int:
        """Bytes of the keys and values of `sequences` sequences of `context` tokens."""
        values = self.source.values
        heads = values["num_hidden_layers"] * values["num_key_value_heads"]
        each: int = native_module().cached_bytes(cache, values["head_dim"])
        return int(2 * heads * each * context * sequences)

    def session(self, *, context: int | None = None, cache: str | None = None, sequences: int = 1) -> Session:
        """Room for `sequences` sequences of up to `context` tokens; raises EngineError where that cannot be.

        Where nobody says what `cache` holds it is F16, and F32 of an exact model.
        """
        if self.encoder:
            raise EngineError(f"{self.path} is an encoder, which continues no text; ask for embeddings of whole texts.")
        length = self.context if context is None else context
        if not 0 < length <= self.context:
            raise EngineError(
                f"{self.path}: a context of {length} tokens was asked for, and the model was made for 1 to "
                f"{self.context}."
            )
        kind = self.cached_as(cache)
        if kind not in CACHES:
            raise EngineError(f"a cache holds {', '.join(CACHES)}, not {kind!r}.")
        if kind in _GROUPED and self.source.values["head_dim"] % _GROUP:
            width = self.source.values["head_dim"]
            raise EngineError(
                f"{self.path}: its heads have {width} columns, a cache of {kind} holds groups of {_GROUP}; choose F16."
            )
        self._require_room(length, kind, sequences)
        try:
            native = native_module().Session(self.machine, sequences, length, min(BATCH, length), kind)
        except MemoryError:
            needed = self.cache_bytes(length, kind, sequences) / 2**30
            raise EngineError(
                f"{self.path}: there is no memory for the cache of {length} tokens ({needed:.1f} GiB); "
                "ask for a smaller context."
            ) from None
        return Session(native, length, sequences, self.vocabulary, self.output.buffer, self.stamp)

    def _require_room(self, context: int, cache: str, sequences: int) -> None:
        """Raise EngineError, with the context that fits, where weights and a cache are more than there is memory."""
        available = available_memory()
        weights, each = self.panels_bytes + _ROOM_FOR_NUMBERS, self.cache_bytes(1, cache, sequences)
        if available is None or weights + context * each <= available:
            return
        fits = (available - weights) // each
        cure = f"ask for a context of at most {fits}" if fits > 0 else "use a smaller model, or --mmap"
        raise EngineError(
            f"{self.path}: a context of {context} tokens takes {context * each / 2**30:.2f} GiB beside the "
            f"{weights / 2**30:.2f} GiB of the model, and {available / 2**30:.2f} GiB are available; {cure}."
        )
