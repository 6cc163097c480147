"""A text that a model writes: the prompt in, pieces of text out as they are ready, and why it ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fewbits.engine.sampling import Sampler, choose
from fewbits.engine.schema import Constraint
from fewbits.engine.stream import TextStream
from fewbits.engine.vocabulary import Vocabulary
from fewbits.errors import EngineError
from fewbits.request import Progress, silent

Floats = npt.NDArray[np.float32]

END, STOP, COUNT, CONTEXT, INTERRUPTED = "end of text", "stop string", "token limit", "context full", "interrupted"
"""Why a text ended: the model or a stop string said so, it was long enough, no room was left, the user said so."""

CHUNK = 256
"""Tokens of a prompt that are read at once: between two chunks an interrupt is heard."""


class Session(Protocol):
    """What is needed of a model with its cache; the engine's own `Session` is one."""

    @property
    def context(self) -> int:
        """Most tokens that a sequence may have."""

    def evaluate(self, tokens: Sequence[int], *, sequence: int = 0) -> Floats:
        """Append tokens to the cache of a sequence; logits (vocabulary,) after the last one."""

    def length(self, sequence: int = 0) -> int:
        """Tokens in the cache of a sequence."""

    def keep(self, length: int, *, sequence: int = 0) -> None:
        """Forget all but the first `length` tokens of a sequence."""

    def generate(
        self, tokens: Sequence[int], count: int, *, sampler: Sampler, stop: frozenset[int], sequence: int = 0
    ) -> Iterator[list[int]]:
        """Append tokens and then up to `count` chosen ones; yields those that became ready, up to one of `stop`."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is to be written after a prompt of token ids, by which choice, and what ends it."""

    prompt: Sequence[int]
    count: int
    sampler: Sampler
    stops: Sequence[str] = ()
    constraint: Constraint | None = None
    strip: bool = False
    """Leave out a space at the beginning that belongs to the tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text, and what it took: `reused` tokens of the prompt were in the cache; times are in seconds."""

    text: str
    tokens: Sequence[int]
    ended: str
    stop_string: str | None
    complete: bool
    """Whether the text is JSON of the schema; true where there is none."""
    prompt_tokens: int
    reused: int
    prompt_seconds: float
    seconds: float

    @property
    def prompt_speed(self) -> float | None:
        """Tokens of the prompt per second; None where all but the last were in the cache."""
        read = self.prompt_tokens - self.reused - 1
        return read / self.prompt_seconds if read > 0 and self.prompt_seconds > 0 else None

    @property
    def speed(self) -> float | None:
        """Written tokens per second; None where there are none."""
        return len(self.tokens) / self.seconds if self.tokens and self.seconds > 0 else None


class Writer:
    """One sequence of a session, and which tokens its cache holds: of the next prompt only what is new is read."""

    def __init__(self, session: Session, vocabulary: Vocabulary, rows: int) -> None:
        self.session = session
        self.vocabulary = vocabulary
        self.rows = rows
        """Rows of the model's logits."""
        self._known: list[int] = []

    def write(
        self, ask: Ask, on_text: Callable[[str], None] = lambda _piece: None, progress: Progress = silent
    ) -> Written:
        """Write on after the prompt, each piece of text given to `on_text` as soon as it is sure.

        How much of the prompt is read, `progress` is told. An interrupt (Ctrl-C) ends the text and is told by `ended`;
        EngineError where the prompt has no room.
        """
        self.check(ask.prompt)
        run = _Run(self, ask, on_text)
        try:
            run.read(progress)
            run.go_on()
        except KeyboardInterrupt:
            run.ended = INTERRUPTED
        return run.written()

    def check(self, prompt: Sequence[int]) -> None:
        """Raise EngineError where `prompt` is empty, does not fit, or has tokens that the model does not know."""
        room = self.session.context
        if not prompt:
            raise EngineError("the prompt is empty, and this model starts no text by itself; give some text.")
        if len(prompt) >= room:
            raise EngineError(
                f"the prompt has {len(prompt)} tokens and the context has room for {room}, one of them for the answer; "
                "give a shorter one or a larger --context, up to the model's own limit."
            )
        if max(prompt) >= self.rows:
            raise EngineError(
                f"{self.vocabulary.path}: token {max(prompt)} of the prompt is unknown to the model, whose output has "
                f"{self.rows} rows; the tokenizer belongs to another model."
            )

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to what it has in common with `prompt`, less its last token; returns how much that is."""
        same = 0
        for ours, theirs in zip(self._known[: self.session.length()], prompt[:-1], strict=False):
            if ours != theirs:
                break
            same += 1
        self.session.keep(same)
        self._known = list(prompt[:same])
        return same

    def know(self, tokens: Sequence[int]) -> None:
        """Note tokens that the cache holds now, or will when the next one is asked for."""
        self._known.extend(tokens)


class _Run:
    """One text while it is written."""

    def __init__(self, writer: Writer, ask: Ask, on_text: Callable[[str], None]) -> None:
        self._writer, self._ask, self._on_text = writer, ask, on_text
        self._stream = TextStream(stops=ask.stops, strip=ask.strip)
        self._tokens: list[int] = []
        self._prompt_seconds = self._seconds = 0.0
        self._reused = 0
        self.ended = COUNT

    def read(self, progress: Progress) -> None:
        """Evaluate what of the prompt is new, all but its last token."""
        began = time.perf_counter()
        session, prompt = self._writer.session, self._ask.prompt
        self._reused = self._writer.reuse(prompt)
        for first in range(self._reused, len(prompt) - 1, CHUNK):
            chunk = prompt[first : min(first + CHUNK, len(prompt) - 1)]
            progress("read", first - self._reused, len(prompt) - 1 - self._reused)
            session.evaluate(chunk)
            self._writer.know(chunk)
        self._prompt_seconds = time.perf_counter() - began

    def go_on(self) -> None:
        """Take tokens until the text ends."""
        began = time.perf_counter()
        room = self._writer.session.context - len(self._ask.prompt)
        count = min(self._ask.count, room)
        self._writer.know(self._ask.prompt[-1:])
        try:
            with contextlib.closing(self._chosen(count)) as chosen:
                over = any(map(self._ends_with, chosen))
            if not over:
                # The native loop ends before it has all tokens only at one that ends a text.
                self.ended = END if len(self._tokens) < count else COUNT if count == self._ask.count else CONTEXT
            self._on_text(self._stream.finish())
        finally:
            self._seconds = time.perf_counter() - began

    def written(self) -> Written:
        """What was written so far."""
        constraint = self._ask.constraint
        return Written(
            text=self._stream.text,
            tokens=tuple(self._tokens),
            ended=self.ended,
            stop_string=self._stream.stopped_by,
            complete=constraint is None or constraint.complete,
            prompt_tokens=len(self._ask.prompt),
            reused=self._reused,
            prompt_seconds=self._prompt_seconds,
            seconds=self._seconds,
        )

    def _ends_with(self, token: int) -> bool:
        """Take one token in; whether the text is over."""
        if token in self._writer.vocabulary.ends:
            self.ended = END
            return True
        self._tokens.append(token)
        self._writer.know([token])
        self._on_text(self._stream.add(self._writer.vocabulary.piece(token)))
        if self._stream.stopped_by is not None:
            self.ended = STOP
            return True
        if self._ask.constraint is not None and self._ask.constraint.finished:
            self.ended = END
            return True
        return False

    def _chosen(self, count: int) -> Generator[int, None, None]:
        return self._free(count) if self._ask.constraint is None else self._constrained(count, self._ask.constraint)

    def _free(self, count: int) -> Generator[int, None, None]:
        """Tokens of the native loop."""
        ends = self._writer.vocabulary.ends
        batches = self._writer.session.generate(self._ask.prompt[-1:], count, sampler=self._ask.sampler, stop=ends)
        for batch in batches:
            yield from batch

    def _constrained(self, count: int, constraint: Constraint) -> Generator[int, None, None]:
        """Tokens chosen one by one, among those that the schema allows."""
        history = np.empty(len(self._ask.prompt) + count, np.int32)
        history[: len(self._ask.prompt)] = self._ask.prompt
        last = self._ask.prompt[-1]
        for at in range(len(self._ask.prompt), len(history)):
            logits = self._writer.session.evaluate([last])
            history[at] = last = choose(self._ask.sampler, logits, history[:at], constraint.allowed())
            if last not in self._writer.vocabulary.ends:
                constraint.take(last)
            yield last
