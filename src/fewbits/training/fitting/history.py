"""What a training did, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step of the optimizer."""

    number: int
    """From 1 on."""
    total: int
    loss: float
    """Mean over what was summed: tokens of a text, samples of others."""
    rate: float
    """The learning rate."""
    norm: float
    """Of all gradients together, before they were clipped."""
    tokens: int
    """What the loss is a mean of."""
    seconds: float


@dataclass
class History:
    """What a training did so far; lists have one entry per step."""

    total: int
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    """Of all steps, those before it was broken off too; saving is not counted."""
    peak_memory: int = 0
    """Bytes, pages of mapped files left out."""
    resumed: list[int] = field(default_factory=list)
    """Steps after which it went on from a saved state."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what is not as one would expect."""

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return len(self.losses)

    @property
    def tokens_per_second(self) -> float:
        """Of all steps; 0 before the first."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, step: Step) -> None:
        """Take down a step that is done."""
        self.losses.append(step.loss)
        self.rates.append(step.rate)
        self.norms.append(step.norm)
        self.tokens += step.tokens
        self.seconds += step.seconds

    def seconds_left(self) -> float | None:
        """What the steps to come will take, as those before did; None before the first."""
        return self.seconds / self.steps * (self.total - self.steps) if self.steps else None

    def to_json(self) -> dict[str, Any]:
        """The history as plain data."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second}

    @staticmethod
    def from_json(data: dict[str, Any]) -> History:
        """What `to_json` wrote."""
        return History(**{name: value for name, value in data.items() if name != "tokens_per_second"})


def smooth(losses: Sequence[float], memory: float = 0.9) -> list[float]:
    """A running mean of `losses` that forgets, by the share `memory` that each step keeps of it.

    >>> [round(value, 3) for value in smooth([4.0, 2.0, 2.0])]
    [4.0, 2.947, 2.598]
    """
    found, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = memory * total + (1 - memory) * loss, memory * weight + (1 - memory)
        found.append(total / weight)
    return found
