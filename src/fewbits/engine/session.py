"""Sequences of tokens that a model has read, and what it says of how they go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.engine.sampling import Sampler, explain_refusal
from fewbits.engine.stamp import Stamp
from fewbits.errors import EngineError
from fewbits.kernels.module import native_module

Floats = npt.NDArray[np.float32]

BATCH = 512
"""Tokens that go through the program at once."""

_SECONDS = 0.1
"""How long a wait for tokens takes no notice of an interrupt."""


class Session:
    """Room for some sequences, each with the keys and values of what was read of it."""

    def __init__(
        self, native: Any, context: int, sequences: int, vocabulary: int, buffer: int, stamp: Stamp | None = None
    ) -> None:
        self.context = context
        self._stamp = stamp or Stamp({})
        self._native = native
        self._vocabulary = vocabulary
        self._buffer = buffer
        self._read: list[list[int]] = [[] for _ in range(sequences)]
        self._writing = False

    def length(self, sequence: int = 0) -> int:
        """Tokens of a sequence that were read."""
        return len(self._read[sequence])

    def keep(self, length: int, *, sequence: int = 0) -> None:
        """Forget all but the first `length` tokens of a sequence."""
        self._require_idle()
        if not 0 <= length <= len(self._read[sequence]):
            raise EngineError(f"{length} tokens cannot be kept of {len(self._read[sequence])}.")
        del self._read[sequence][length:]

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
            part = list(tokens[start : start + BATCH])
            outputs = range(max(0, len(tokens) - wanted - start), len(part))
            rows.append(self._run([(sequence, part)], outputs))
        return np.concatenate(rows)

    def evaluate_together(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """Read tokens of several sequences at once, `tokens[i]` of sequence i; logits behind the last of each.

        Raises EngineError for more than `BATCH` tokens in all.
        """
        for sequence, own in enumerate(tokens):
            self._require_room(len(own), sequence)
        ends = np.cumsum([len(own) for own in tokens])
        if ends[-1] > BATCH:
            raise EngineError(f"{ends[-1]} tokens were given at once, and {BATCH} go through the program together.")
        return self._run([(sequence, list(own)) for sequence, own in enumerate(tokens)], [int(end) - 1 for end in ends])

    def generate(
        self, tokens: Sequence[int], count: int, *, sampler: Sampler, stop: frozenset[int], sequence: int = 0
    ) -> Iterator[list[int]]:
        """Read `tokens`, then choose and read up to `count`; yields those that became ready since the last time.

        No Python is run for a token: the machine goes on while what it has chosen is looked at. It ends at one of
        `stop`, which is not yielded, and where the generator is closed. Raises EngineError where nothing can be chosen.
        """
        self._require_room(len(tokens) + max(0, count - 1), sequence)
        if len(tokens) > BATCH:
            self.evaluate(tokens[:-1], sequence=sequence)
            tokens = tokens[-1:]
        self._stamp.require_same()
        read = self._read[sequence]
        history = np.array([*read, *tokens], np.int32)
        stops = [token for token in stop if 0 <= token < self._vocabulary]
        going = native_module().Generation(
            self._native, sampler, history, sequence, len(read), count, stops, self._buffer
        )
        return self._taken(going, history.tolist(), sequence)

    def _taken(self, going: Any, known: list[int], sequence: int) -> Iterator[list[int]]:
        self._require_idle()
        self._writing = True
        failed: list[Exception] = []
        worker = Thread(target=_run_noting, args=(going, failed), name="fewbits-generation")
        worker.start()
        try:
            while True:
                going.wait(_SECONDS)
                ended = going.ended  # asked first: what comes after it is complete
                if ready := going.take():
                    known += ready
                    yield ready
                elif ended:
                    break
        finally:
            going.cancel()
            worker.join()
            known += going.take()
            self._read[sequence] = known[: going.position]
            self._writing = False
        if failed:
            raise EngineError(f"the text cannot go on ({type(failed[0]).__name__}: {failed[0]}).") from failed[0]
        explain_refusal(going.refused)

    def _run(self, parts: Sequence[tuple[int, list[int]]], outputs: Sequence[int]) -> Floats:
        self._stamp.require_same()
        tokens = np.concatenate([np.array(own, np.int32) for _, own in parts])
        sequences = np.concatenate([np.full(len(own), sequence, np.int32) for sequence, own in parts])
        begins = [(len(self._read[sequence]), len(own)) for sequence, own in parts]
        positions = np.concatenate([np.arange(begin, begin + count, dtype=np.int32) for begin, count in begins])
        wanted = np.array(outputs, np.int32)
        logits = np.empty((len(wanted), self._vocabulary), np.float32)
        self._native.run(tokens, sequences, positions, wanted, self._buffer, logits)
        for sequence, own in parts:
            self._read[sequence] += own
        return logits

    def _require_idle(self) -> None:
        if self._writing:
            raise EngineError("this session is writing a text; close that generator, or take another session.")

    def _require_room(self, count: int, sequence: int) -> None:
        self._require_idle()
        if not count:
            raise EngineError("there are no tokens to read; give at least one.")
        if len(self._read[sequence]) + count > self.context:
            raise EngineError(
                f"{len(self._read[sequence]) + count} tokens do not fit into the context of {self.context}; "
                "shorten the prompt or ask for a larger context."
            )


def _run_noting(going: Any, failed: list[Exception]) -> None:
    """Run a generation to its end; what it raises belongs to the thread that takes the tokens."""
    try:
        going.run()
    except Exception as error:  # native code: MemoryError, or a fault that has to be seen
        failed.append(error)
