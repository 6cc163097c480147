"""How a model is trained: what a user can set, checked when it is set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fewbits.errors import TrainingError

OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
"""torch's AdamW, and bitsandbytes' with moments of 8 bits; paged ones move to the CPU where a GPU is full."""
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("float32", "bfloat16")

_MAY_CHANGE = frozenset({"save_every", "save_minutes"})
"""Settings that change no number of a training."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained; raises TrainingError, one sentence, for what cannot be.

    >>> Settings(steps=100, warmup=0.1).rate(4), Settings(steps=100, warmup=0.1).rate(99) < 1e-7
    (0.0001, True)
    """

    steps: int | None = None
    """Steps of the optimizer; None: what `epochs` take."""
    epochs: float = 1.0
    """How often all batches are seen, where `steps` says nothing."""
    learning_rate: float = 2e-4
    """The largest, after the warm-up."""
    warmup: float = 0.03
    """The share of all steps in which the rate rises from 0."""
    schedule: str = "cosine"
    """How the rate falls after the warm-up: along half a cosine, in a line, or not."""
    floor: float = 0.0
    """The share of the largest rate at which it stops falling."""
    accumulate: int = 1
    """Batches whose gradients are added before each step."""
    clip: float | None = 1.0
    """The largest norm of all gradients together; None leaves them as they are."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer: str = "adamw"
    precision: str = "float32"
    """What products are computed in; weights that are trained, their gradients and moments are as they are."""
    checkpointing: bool = False
    """Whether states inside layers are computed twice instead of being kept: less memory, more time."""
    seed: int = 0
    """Of the order of batches and of dropout."""
    save_every: int | None = 50
    """Steps between two saved states; None for none but by the clock."""
    save_minutes: float | None = 10.0
    """Minutes after which a state is saved whatever the step."""

    def __post_init__(self) -> None:
        for name, good, wanted in self._demands():
            if not good:
                raise TrainingError(f"{name}={getattr(self, name)!r} is not {wanted}; correct it.")

    def _demands(self) -> list[tuple[str, bool, str]]:
        return [
            ("steps", self.steps is None or self.steps >= 1, "a number of steps (1 or more)"),
            ("epochs", 0 < self.epochs < math.inf, "a number above 0"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share of all steps (0 to 1)"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("floor", 0 <= self.floor <= 1, "a share of the learning rate (0 to 1)"),
            ("accumulate", self.accumulate >= 1, "a number of batches (1 or more)"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "a number above 0, or None"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number from 0 on"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            ("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("save_every", self.save_every is None or self.save_every >= 1, "a number of steps (1 or more), or None"),
            ("save_minutes", self.save_minutes is None or self.save_minutes > 0, "a number above 0, or None"),
        ]

    def total(self, batches: int) -> int:
        """Steps of the optimizer where one pass over the data has `batches` batches.

        >>> Settings(epochs=2, accumulate=4).total(10)
        5
        """
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * batches / self.accumulate - 1e-9))

    def rate(self, step: int, total: int | None = None) -> float:
        """The learning rate of step `step` (from 0) of `total`."""
        last = total if total is not None else self.steps or 1
        warm = math.ceil(self.warmup * last)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        part = (step - warm) / max(1, last - warm)
        falls = {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}
        return self.learning_rate * (self.floor + (1 - self.floor) * falls[self.schedule])

    def asked(self) -> Mapping[str, Any]:
        """What a training that goes on must have in common with its beginning, as JSON."""
        return {name: _plain(value) for name, value in asdict(self).items() if name not in _MAY_CHANGE}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
