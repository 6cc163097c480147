"""What the pipeline sees of calibration: a plan before any weight is read, then solved tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fewbits.calibrated import planning, stored
from fewbits.calibrated.ground import Ground, Texts
from fewbits.calibrated.planning import Plan
from fewbits.calibrated.run import Outcome, run
from fewbits.calibrated.workspace import Workspace
from fewbits.checkpoints.base import Conversion, Placement
from fewbits.encoding import Encoded
from fewbits.methods import Method
from fewbits.reporting.record import CalibrationPlan, CalibrationResult, PlannedTensor, TensorResult
from fewbits.request import CalibrationRequest
from fewbits.workers import Workers


@dataclass(frozen=True)
class Session:
    """One source, the texts it will be walked with, and how."""

    conversion: Conversion
    method: Method
    seed: int
    plan: Plan

    @staticmethod
    def open(conversion: Conversion, method: Method, asked: CalibrationRequest, seed: int) -> Session:
        """Read texts and configuration; raises FewbitsError where the model cannot be run or the text not be used."""
        return Session(conversion, method, seed, planning.plan(conversion, asked, seed))

    @property
    def used(self) -> CalibrationPlan:
        """The texts, for preview and card."""
        return self.plan.used

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, one sentence each."""
        return self.plan.notes

    def with_methods(self, tensors: Iterable[PlannedTensor]) -> tuple[PlannedTensor, ...]:
        """The method for what it can solve, nearest for the rest."""
        return planning.with_methods(tensors, self.plan, self.method)

    def seconds(self, threads: int) -> float:
        """Expected time of the walk."""
        return planning.estimate_seconds(self.plan, threads)

    def memory(self, threads: int) -> int:
        """Expected bytes of the walk."""
        return planning.estimate_memory(self.plan, threads)

    def solve(
        self,
        output: Path,
        tensors: tuple[PlannedTensor, ...],
        workers: Workers,
        stack: ExitStack,
        progress: Callable[[int, int], None],
    ) -> Solved:
        """Walk through the model; what is finished stays beside `output` if this fails, for the same command."""
        asked = planning.asked_for(self.plan, self.conversion, tensors, self.method, self.seed)
        work = stack.enter_context(Workspace(output, asked))
        texts = Texts(self.plan.calibration, self.plan.held_out)
        ground = Ground(self.plan.source, {t.name: t for t in tensors}, self.method, texts, work, workers, progress)
        return Solved(work, run(ground))


@dataclass(frozen=True)
class Solved:
    """What calibration found, and where it lies."""

    work: Workspace
    outcome: Outcome

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.outcome.chosen

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors of the target that were solved."""
        return tuple(self.outcome.chosen)

    def encoded(self, planned: PlannedTensor, placement: Placement) -> Encoded:
        """The whole tensor, whose fields lie in the workspace, and its errors against the rows of its source."""
        return stored.encoded(self.work, self.outcome, planned, placement)

    def result(self, planned: PlannedTensor, error: float) -> TensorResult:
        """What the card says of a solved tensor."""
        _, kind = self.outcome.chosen[planned.name]
        found = self.outcome.records[planned.name]
        errors, remarks = found["errors"], tuple(found["remarks"])
        return TensorResult(planned, error, errors[kind], errors["plain"], remarks)

    def judged(self) -> CalibrationResult:
        """What the card says of the whole."""
        chosen = self.outcome.chosen.values()
        return CalibrationResult(
            verdicts=tuple(verdict.to_json() for verdict in self.outcome.verdicts),
            tensors=len(chosen),
            kept=sum(kind == "solved" for _, kind in chosen),
            resumed=self.work.resumed,
        )

    def remove(self) -> None:
        """Forget the workspace: the output is there."""
        self.work.remove()
