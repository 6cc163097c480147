"""The protocol of a way to round a graph's values, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fewbits.onnx_activations.graph import Graph
from fewbits.reporting.graph_record import FloatNode, GraphRounding, OutputError
from fewbits.reporting.record import PlannedTensor, TensorResult
from fewbits.verification.onnx_activations import Stated

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Planned:
    """What is known before the work."""

    graph: Graph
    """The graph to come, its new constants empty."""
    tensors: tuple[PlannedTensor, ...]
    floats: tuple[FloatNode, ...]
    notes: tuple[str, ...]
    seconds: float
    memory: int


@dataclass(frozen=True)
class Rounded:
    """A finished graph."""

    graph: Graph
    tensors: tuple[TensorResult, ...]
    told: GraphRounding
    stated: Stated


class RoundingWay(Protocol):
    """One way."""

    def planned(self) -> Planned:
        """What will be done."""

    def round(self, progress: Progress) -> Rounded:
        """Do it."""

    def judge(self, output: Path, progress: Progress) -> tuple[OutputError, ...]:
        """Run what was written beside the source."""

    def versions(self) -> dict[str, str]:
        """Of packages that took part."""
