"""What the pipeline sees of calibration: a plan before any weight is read, then solved tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fewbits.calibrated import estimates, learning, planning, stored
from fewbits.calibrated.ground import Ground, Texts
from fewbits.calibrated.planning import Plan
from fewbits.calibrated.run import Outcome, run
from fewbits.calibrated.workspace import Workspace
from fewbits.calibration.unlikeness import Seen, Unlikeness, tokens_report, unlikeness
from fewbits.checkpoints.base import Conversion, Placement
from fewbits.checkpoints.imatrix import Importance
from fewbits.checkpoints.imatrix_writer import write_importance
from fewbits.encoding import Encoded
from fewbits.reporting.record import CalibrationPlan, CalibrationResult, PlannedTensor, TensorResult
from fewbits.request import CalibrationRequest
from fewbits.verification.matrices import Allowance
from fewbits.way import Way
from fewbits.workers import Workers


@dataclass(frozen=True)
class Session:
    """One source, the texts it will be walked with, and how."""

    conversion: Conversion
    way: Way
    seed: int
    plan: Plan

    @staticmethod
    def open(conversion: Conversion, way: Way, asked: CalibrationRequest, seed: int) -> Session:
        """Read texts and configuration; raises FewbitsError where the model cannot be run or the text not be used."""
        plan = planning.plan(conversion, asked, seed)
        learning.require_learnable(plan, way.learned)
        return Session(conversion, way, seed, plan)

    @property
    def used(self) -> CalibrationPlan:
        """The texts, for preview and card."""
        return self.plan.used

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, one sentence each."""
        later = ("Columns that stay in 16 bits are counted when the text was read; the file grows by them.",)
        return (*self.plan.notes, *(later if self.way.split else ()))

    def with_methods(self, tensors: Iterable[PlannedTensor]) -> tuple[PlannedTensor, ...]:
        """The method for what it can solve, nearest for the rest."""
        return planning.with_methods(tensors, self.plan, self.way)

    def seconds(self, threads: int) -> float:
        """Expected time of the walk."""
        operations, _ = learning.cost(self.plan, self.way.learned)
        return estimates.estimate_seconds(self.plan, threads, self.way.method.products, operations)

    def memory(self, threads: int) -> int:
        """Expected bytes of the walk."""
        return max(estimates.estimate_memory(self.plan, threads), learning.cost(self.plan, self.way.learned)[1])

    def over(self, placements: Mapping[str, Placement]) -> Session:
        """The same walk through other numbers: those of `placements`, by target."""
        return replace(self, plan=replace(self.plan, source=self.plan.source.over(placements)))

    def solve(
        self,
        output: Path,
        tensors: tuple[PlannedTensor, ...],
        workers: Workers,
        stack: ExitStack,
        progress: Callable[[int, int], None],
    ) -> Solved:
        """Walk through the model; what is finished stays beside `output` if this fails, for the same command."""
        asked = planning.asked_for(self.plan, self.conversion, tensors, self.way, self.seed)
        work = stack.enter_context(Workspace(output, asked))
        texts = Texts(self.plan.calibration, self.plan.held_out, self.plan.targets)
        ground = Ground(
            self.plan.source, {t.name: t for t in tensors}, self.way, texts, work, workers, progress, self.seed
        )
        return Solved(self.plan, work, run(ground))


@dataclass(frozen=True)
class Solved:
    """What calibration found, and where it lies."""

    plan: Plan
    work: Workspace
    outcome: Outcome

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.outcome.chosen or tensor in self.outcome.scaled

    def allowances(self) -> dict[str, Allowance]:
        """How each tensor may differ from its source."""
        found = {}
        for name in {**self.outcome.chosen, **self.outcome.scaled}:
            scaling = stored.scaling_of(self.work, self.outcome, name)
            kind = "compensated" if name in self.outcome.chosen else ""
            found[name] = Allowance(kind, scaling.rows, scaling.columns) if scaling else Allowance(kind)
        return found

    def encoded(self, planned: PlannedTensor, placement: Placement) -> Encoded:
        """The whole tensor, whose fields lie in the workspace, and its errors against the rows of its source."""
        return stored.encoded(self.work, self.outcome, planned, placement)

    def result(self, planned: PlannedTensor, error: float) -> TensorResult:
        """What the card says of a tensor that was solved or scaled."""
        scaled = ("scaled, with what reads it, by a transform",) if planned.name in self.outcome.scaled else ()
        if planned.name not in self.outcome.chosen:
            return TensorResult(planned, error, remarks=scaled)
        _, kind = self.outcome.chosen[planned.name]
        found = self.outcome.records[planned.name]
        errors, remarks = found["errors"], tuple(found["remarks"])
        return TensorResult(planned, error, errors[kind], errors["plain"], (*remarks, *scaled))

    def outliers(self, tensor: str) -> int:
        """How many columns of a tensor stay in 16 bits."""
        return stored.outliers(self.work, self.outcome, tensor)

    def judged(self) -> CalibrationResult:
        """What the card says of the whole."""
        chosen = self.outcome.chosen.values()
        report = self._unlikeness()
        reached = {name: r["tokens"] for name, r in self.outcome.records.items() if len(r["tokens"]) > 1}
        return CalibrationResult(
            verdicts=tuple(verdict.to_json() for verdict in self.outcome.verdicts),
            tensors=len(chosen),
            kept=sum(kind == "solved" for _, kind in chosen),
            resumed=self.work.resumed,
            unlikeness=report.to_json() if report else None,
            notes=(*(report.sentences() if report else ()), *_few(tokens_report(reached))),
        )

    def _unlikeness(self) -> Unlikeness | None:
        """How far the calibration text is from the target's, where one was given."""
        if not self.plan.targets:
            return None
        records = self.outcome.records.items()
        here = Seen(self.plan.calibration, {name: r["mean_square"] for name, r in records if r["mean_square"]})
        groups = {
            group: Seen(ids, {name: r["targets"][group] for name, r in records if r["targets"][group]})
            for group, ids in self.plan.targets.items()
        }
        size = self.plan.source.vocabulary.size
        whole = _together(list(groups.values()))
        return unlikeness(here, whole, size, groups=groups if len(groups) > 1 else None)

    def write_importance(self, path: Path) -> None:
        """Keep the mean squares of the inputs of every solved matrix as an importance matrix."""
        entries = {}
        for name, record in self.outcome.records.items():
            tokens = np.asarray(record["tokens"], np.float32)
            squares = np.asarray(record["mean_square"], np.float64).reshape(len(tokens), -1) * tokens[:, None]
            entries[name] = Importance(squares.astype(np.float32).ravel(), tokens)
        text = self.plan.used.text
        names = [source["name"] for part in text["parts"] for source in part["sources"]]
        write_importance(path, entries, chunk_length=text["length"], chunks=text["windows"], datasets=names)

    def remove(self) -> None:
        """Forget the workspace: the output is there."""
        self.work.remove()


SENTENCES = 3
"""Stacks of experts that few tokens reached are told one by one, up to so many."""


def _few(sentences: tuple[str, ...]) -> tuple[str, ...]:
    rest = len(sentences) - SENTENCES
    return sentences if rest <= 0 else (*sentences[:SENTENCES], f"Few tokens reached experts of {rest} more tensors.")


def _together(groups: list[Seen]) -> Seen:
    """All groups as one text, each with its own weight in tokens."""
    ids = [np.asarray(group.ids) for group in groups]
    known = set.intersection(*(set(group.squares) for group in groups))
    shares = np.array([each.size for each in ids]) / sum(each.size for each in ids)
    squares = {name: shares @ np.array([group.squares[name] for group in groups]) for name in sorted(known)}
    return Seen(np.concatenate([each.ravel() for each in ids]), squares)
