"""An engine that writes what it is told to, and forgets nothing of what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass
class FakeSession:
    """One sequence. `replies` are written one after the other; like the real one, it runs ahead of what was yielded."""

    context: int
    rows: int
    replies: Iterator[list[int]]
    tokens: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    """How many tokens each call brought."""
    on_batch: Callable[[], None] = lambda: None

    def evaluate(self, tokens: Sequence[int], *, sequence: int = 0) -> Floats:
        assert sequence == 0
        assert tokens
        assert len(self.tokens) + len(tokens) <= self.context
        self.tokens.extend(tokens)
        self.read.append(len(tokens))
        return np.random.default_rng(self.tokens).normal(size=self.rows).astype(np.float32)

    def length(self, sequence: int = 0) -> int:
        return len(self.tokens) - sequence

    def keep(self, length: int, *, sequence: int = 0) -> None:
        assert 0 <= length <= len(self.tokens)
        assert sequence == 0
        del self.tokens[length:]

    def generate(
        self, tokens: Sequence[int], count: int, *, sampler: Any, stop: frozenset[int], sequence: int = 0
    ) -> Iterator[list[int]]:
        self.evaluate(tokens, sequence=sequence)
        reply = next(self.replies)[:count]
        ended = next((at for at, token in enumerate(reply) if token in stop), len(reply))
        reply = reply[:ended]
        self.tokens.extend(reply[:-1])  # all of it is in the cache before the first token is seen
        assert len(self.tokens) <= self.context
        assert sampler is not None
        at = 0
        for size in (1, 3, 2, len(reply)):
            yield reply[at : at + size]
            at += size
            self.on_batch()


@dataclass
class FakeModel:
    path: Path
    replies: list[list[int]]
    context: int = 512
    vocabulary: int = 4096
    architecture: str = "llama"
    sessions: list[FakeSession] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    on_batch: Callable[[], None] = lambda: None

    def cached_as(self, cache: str | None) -> str:
        return cache or "F16"

    def pack(self, progress: Callable[[str, int, int], None]) -> None:
        progress("prepare", 1, 1)

    def session(self, *, context: int | None = None, cache: str | None = None, sequences: int = 1) -> FakeSession:
        self.asked.append({"context": context, "cache": cache, "sequences": sequences})
        room = self.context if context is None else context
        made = FakeSession(room, self.vocabulary, iter(self.replies), on_batch=self.on_batch)
        self.sessions.append(made)
        return made
