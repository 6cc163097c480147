"""A training from a model on the disk to an output on the disk: what `finetune` and `qat` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from fewbits import request
from fewbits.evaluation.threads import threads_of
from fewbits.hub.locating import locate
from fewbits.reporting.training_record import TrainingPreview, TrainingRecord
from fewbits.training.estimating import measured, memory_parts
from fewbits.training.evaluating import mean_loss
from fewbits.training.fitting.history import History, Step
from fewbits.training.fitting.loop import Progress as OnStep
from fewbits.training.fitting.loop import fit
from fewbits.training.fitting.losses import Loss, next_tokens
from fewbits.training.fitting.settings import Settings
from fewbits.training.fitting.state import read_statement
from fewbits.training.fitting.workspace import forget, workspace
from fewbits.training.material.reading import Material, Reading, read_material
from fewbits.training.material.windows import TokenBatches
from fewbits.training.material.words import Words
from fewbits.training.plotting import Logs, draw_losses, require_drawable, require_logs
from fewbits.versions import versions_of

TRIED = 2
"""Steps of a dry run: the first one also makes what later ones find ready."""


def unheard(step: Step, history: History) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Job:
    """What a user asked for."""

    source: str
    output: Path
    reading: Reading
    settings: Settings
    resume: bool = False
    stop_at: int | None = None
    force: bool = False
    dry_run: bool = False
    threads: int | None = None
    revision: str | None = None
    plot: Path | None = None
    """A picture of the losses."""
    logs: Path | None = None
    """A folder for TensorBoard."""
    on_preview: Callable[[TrainingPreview], None] = lambda preview: None
    progress: request.Progress = request.silent
    on_step: OnStep = unheard


@dataclass(frozen=True)
class Pupil:
    """A model that is ready to be trained."""

    model: torch.nn.Module
    path: Path
    """Where the model lies on this machine."""
    formats: Mapping[str, int]
    """Format -> matrices."""
    parameters: int
    """Of the model as it was."""
    fingerprint: str
    """Of what is not trained: a training goes on from the same."""
    notes: tuple[str, ...] = ()
    loss: Loss = next_tokens
    """What is made small."""
    groups: Any = None
    """Of the optimizer."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes of what is held beside the model."""


class Task(Protocol):
    """What one command makes of a model, before and after it is trained."""

    verb: str
    measure: str
    """What the loss is."""
    packages: ClassVar[tuple[str, ...]]
    """What takes part beside torch and transformers."""

    def method(self) -> dict[str, Any]:
        """What is learned, as JSON: a training goes on with the same."""

    def require_free(self, job: Job) -> None:
        """Raise a FewbitsError where the output could not be written."""

    def pupil(self, path: Path, job: Job) -> Pupil:
        """The model at `path`, ready to be trained."""

    def publish(self, pupil: Pupil, job: Job, record: TrainingRecord) -> TrainingRecord:
        """Write the output, whole or not at all; the record with what was written."""


def carry_out(task: Task, job: Job) -> TrainingRecord | TrainingPreview:
    """Do what was asked; raises a FewbitsError, one sentence, wherever it cannot be done."""
    task.require_free(job)
    require_drawable(job.plot, force=job.force)
    require_logs(job.logs)
    with threads_of(job.threads), ExitStack() as work:
        path = _located(job)
        words = Words.of(path, job.reading.template)
        material = read_material(job.reading, words, job.settings.seed)
        folder = None
        if not job.dry_run:
            folder = work.enter_context(workspace(job.output, resume=job.resume, force=job.force))
        job.progress("load", 0, 0)
        pupil = task.pupil(path, job)
        job.progress("load", 1, 1)
        batches = TokenBatches(material.train, job.reading.batch, seed=job.settings.seed, pad=words.pad)
        preview = _preview(task, job, pupil, material, batches, folder)
        if folder is None:
            preview = replace(preview, measured=_tried(job, pupil, batches))
        job.on_preview(preview)
        if folder is None:
            return preview
        held = TokenBatches(material.held, job.reading.batch, seed=0, pad=words.pad).in_order()
        return _trained(task, job, pupil, preview, batches, held, folder)


def _located(job: Job) -> Path:
    fetched = locate(job.source, revision=job.revision, progress=lambda done, all: job.progress("download", done, all))
    return Path(fetched.path).expanduser()


def _trained(
    task: Task,
    job: Job,
    pupil: Pupil,
    preview: TrainingPreview,
    batches: TokenBatches,
    held: list[dict[str, Any]],
    folder: Path,
) -> TrainingRecord:
    before = _held_out(pupil, held, job, "before")
    with ExitStack() as after:
        logs = after.enter_context(Logs(job.logs, preview.resumed_at or 0))

        def tell(step: Step, history: History) -> None:
            logs(step, history)
            job.on_step(step, history)

        history = fit(
            pupil.model,
            batches,
            settings=job.settings,
            folder=folder,
            progress=tell,
            loss=pupil.loss,
            groups=pupil.groups,
            asked=_asked(task, pupil, preview),
            resume=job.resume,
            stop_at=job.stop_at,
        )
    record = TrainingRecord(
        preview=preview,
        history=history,
        loss_before=before,
        loss_after=_held_out(pupil, held, job, "after"),
        files={},
        versions=versions_of("torch", "transformers", *task.packages),
        complete=history.steps == history.total,
    )
    if job.plot is not None:
        draw_losses(record, job.plot)
        record = replace(record, files={"plot": str(job.plot)})
    record = task.publish(pupil, job, record)
    if record.complete:
        forget(folder)
    return record


def _held_out(pupil: Pupil, held: list[dict[str, Any]], job: Job, when: str) -> float | None:
    return mean_loss(pupil.model, held, loss=pupil.loss, progress=lambda done, all: job.progress(when, done, all))


_OF_NO_NUMBER = ("file", "validation", "held")
"""Beginnings of names of facts that change nothing of what is learned: windows have a SHA-256 of their own."""


def _asked(task: Task, pupil: Pupil, preview: TrainingPreview) -> dict[str, Any]:
    """What a training that goes on has in common with its beginning."""
    data = {name: value for name, value in preview.data.items() if not name.startswith(_OF_NO_NUMBER)}
    return {"verb": task.verb, "model": pupil.fingerprint, "method": task.method(), "data": data}


def _preview(
    task: Task, job: Job, pupil: Pupil, material: Material, batches: TokenBatches, folder: Path | None
) -> TrainingPreview:
    statement = read_statement(folder) if folder is not None else None
    longest = max(len(window.ids) for window in material.train.windows)
    return TrainingPreview(
        verb=task.verb,
        measure=task.measure,
        source=job.source,
        output=str(job.output),
        architecture=type(pupil.model).__name__,
        parameters=pupil.parameters,
        trained=sum(p.numel() for p in pupil.model.parameters() if p.requires_grad),
        formats=dict(pupil.formats),
        data=material.facts,
        settings=dict(job.settings.asked()),
        method=task.method(),
        steps=job.settings.total(len(batches)),
        memory=memory_parts(pupil.model, job.settings, min(job.reading.batch, len(material.train)), longest)
        | pupil.memory,
        resumed_at=None if statement is None else statement.step,
        notes=(*material.notes, *pupil.notes),
    )


def _tried(job: Job, pupil: Pupil, batches: TokenBatches) -> Any:
    """What a step takes; the model is another one afterwards, and nothing is kept of it."""
    steps: list[Step] = []
    history = fit(
        pupil.model,
        batches,
        settings=job.settings,
        folder=None,
        progress=lambda step, _: steps.append(step),
        loss=pupil.loss,
        groups=pupil.groups,
        stop_at=TRIED,
    )
    return measured(steps, history)
