"""Tokens per second of a session, by repetitions of the same work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from fewbits.speed.energy import EnergyMeter

Progress = Callable[[int, int], None]


class Evaluates(Protocol):
    """What is measured of a session of the engine."""

    def evaluate(self, tokens: Sequence[int], *, sequence: int = 0) -> object:
        """The logits behind `tokens`, which are added to the cache."""

    def keep(self, length: int, *, sequence: int = 0) -> None:
        """Forget all but the first `length` tokens."""


@dataclass(frozen=True)
class Rate:
    """Repetitions of one piece of work: `tokens` evaluated behind `depth` others."""

    tokens: int
    depth: int
    seconds: tuple[float, ...]
    """Of each repetition."""
    joules: float | None
    """Of all repetitions; None where energy cannot be measured."""

    @property
    def tokens_per_second(self) -> float:
        """By the median repetition.

        >>> Rate(10, 0, (1.0, 2.0, 10.0), 30.0).tokens_per_second
        5.0
        """
        return self.tokens / statistics.median(self.seconds)

    @property
    def slowest(self) -> float:
        """Tokens per second of the slowest repetition."""
        return self.tokens / max(self.seconds)

    @property
    def fastest(self) -> float:
        """Tokens per second of the fastest repetition."""
        return self.tokens / min(self.seconds)

    @property
    def joules_per_token(self) -> float | None:
        """The mean over all repetitions.

        >>> Rate(10, 0, (1.0, 2.0, 10.0), 30.0).joules_per_token
        1.0
        """
        return None if self.joules is None else self.joules / (self.tokens * len(self.seconds))

    def to_json(self) -> dict[str, Any]:
        """The rate as plain data, with the derived figures spelled out."""
        derived = ("tokens_per_second", "slowest", "fastest", "joules_per_token")
        return {**asdict(self), "seconds": list(self.seconds), **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True)
class Workload:
    """A prompt of tokens at once, and tokens one after another, each behind `depth` others."""

    prompt: int
    generate: int
    depth: int
    repeats: int
    warm_up: bool

    @property
    def context(self) -> int:
        """Tokens that the cache has to hold."""
        return self.depth + max(self.prompt, self.generate, 1)

    @property
    def mean_depth(self) -> int:
        """Tokens that stand before a generated one, on average."""
        return self.depth + self.generate // 2


@dataclass(frozen=True)
class Timing:
    """Runs a workload on a session, with random tokens."""

    session: Evaluates
    vocabulary: int
    work: Workload
    meter: EnergyMeter
    progress: Progress

    def rates(self) -> tuple[Rate | None, Rate | None]:
        """Of the prompt and of generation; None for what the workload leaves out."""
        self.session.keep(0)
        if self.work.depth:
            self.session.evaluate(self._tokens(self.work.depth))
        return self._rate(self.work.prompt, self._at_once, 0), self._rate(self.work.generate, self._one_by_one, 1)

    def _rate(self, count: int, turn: Callable[[Sequence[int]], None], number: int) -> Rate | None:
        if not count:
            return None
        turns = self.work.repeats + self.work.warm_up
        seconds = []
        joules = self.meter.joules()
        for done in range(turns):
            self.progress(number * turns + done, 2 * turns)
            if done == self.work.warm_up:
                joules = self.meter.joules()
            tokens = self._tokens(count)
            self.session.keep(self.work.depth)
            began = time.perf_counter()
            turn(tokens)
            seconds.append(time.perf_counter() - began)
        after = self.meter.joules()
        used = None if joules is None or after is None else after - joules
        return Rate(count, self.work.depth, tuple(seconds[self.work.warm_up :]), used)

    def _at_once(self, tokens: Sequence[int]) -> None:
        self.session.evaluate(tokens)

    def _one_by_one(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.session.evaluate([token])

    def _tokens(self, count: int) -> list[int]:
        drawn: list[int] = np.random.default_rng(count).integers(0, self.vocabulary, count).tolist()
        return drawn
