"""What a training will do and what it did, as plain data: the preview before it, and the record after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.fitting.history import History


@dataclass(frozen=True)
class Measured:
    """What steps took that were tried, and undone."""

    seconds: float
    """Of one step."""
    tokens_per_second: float
    peak_memory: int
    """Bytes, pages of mapped files left out."""


@dataclass(frozen=True)
class TrainingPreview:
    """What a training will do."""

    verb: str
    """"finetune" or "qat"."""
    measure: str
    """What the loss is: "cross-entropy" or "KL divergence from the teacher"."""
    source: str
    output: str
    architecture: str
    parameters: int
    """Of the model, without what is added to it."""
    trained: int
    """Numbers that are learned."""
    formats: dict[str, int]
    """Format -> matrices held, or learned, in it."""
    data: dict[str, Any]
    """Where windows come from (training.material)."""
    settings: dict[str, Any]
    method: dict[str, Any]
    """What is learned: rank and targets of an adapter, or formats that are trained."""
    steps: int
    memory: dict[str, int]
    """Bytes, estimated: weights, what is learned with its gradients and moments, states, logits."""
    resumed_at: int | None
    """Steps that a run before has done."""
    notes: tuple[str, ...] = ()
    measured: Measured | None = None
    """Where a dry run has tried a step."""

    @property
    def memory_estimated(self) -> int:
        """Bytes of all parts."""
        return sum(self.memory.values())

    @property
    def seconds_estimated(self) -> float | None:
        """Of all steps to come, where one was measured."""
        return None if self.measured is None else self.measured.seconds * (self.steps - (self.resumed_at or 0))

    def to_json(self) -> dict[str, Any]:
        """The preview as plain data."""
        data = asdict(self) | {"notes": list(self.notes)}
        return data | {"memory_estimated": self.memory_estimated, "seconds_estimated": self.seconds_estimated}


@dataclass(frozen=True)
class TrainingRecord:
    """What a training did."""

    preview: TrainingPreview
    history: History
    loss_before: float | None
    """Nats per token on what was held out; None where nothing was."""
    loss_after: float | None
    files: dict[str, str]
    """What was written: what it is -> where."""
    versions: dict[str, str]
    complete: bool
    """Whether all steps were done."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else was measured: of a merged model, of a quantized one."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return {
            "preview": self.preview.to_json(),
            "history": self.history.to_json(),
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "files": self.files,
            "versions": self.versions,
            "complete": self.complete,
            **self.details,
        }
