"""`fewbits.qat`: a language model that learns, in the numbers it will be stored as, to answer as it did before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from fewbits import request
from fewbits.errors import TrainingError
from fewbits.reporting.training_record import TrainingPreview, TrainingRecord
from fewbits.training.distilling import distillation
from fewbits.training.fitting.loop import Progress as OnStep
from fewbits.training.fitting.losses import IGNORED, Loss, summed
from fewbits.training.fitting.settings import Settings
from fewbits.training.fitting.state import count_numbers, digest_of
from fewbits.training.job import Job, Pupil, carry_out, unheard
from fewbits.training.material.reading import Reading
from fewbits.training.taught_output import publish_taught, require_output, require_storable

STEPS_RATE = 0.5
"""The learning rate of scales and zero points, in units of that of weights: one scale moves all its codes at once.

With weights at 1e-4, a model of 2 bits ended lower where scales had twice that than where they had ten times it.
"""


def qat(
    source: str | Path,
    output: str | Path,
    *,
    data: str | Path | Reading,
    to: str | Path,
    tensors: Mapping[str, str] | Iterable[str] = (),
    labels: float = 0.0,
    temperature: float = 1.0,
    begin: str | Path | None = None,
    dialect: str | None = None,
    settings: Settings | None = None,
    resume: bool = False,
    stop_at: int | None = None,
    plot: str | Path | None = None,
    logs: str | Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    threads: int | None = None,
    revision: str | None = None,
    on_preview: Callable[[TrainingPreview], None] = lambda preview: None,
    progress: request.Progress = request.silent,
    on_step: OnStep = unheard,
) -> TrainingRecord | TrainingPreview:
    """Train the model `source` in the formats of the recipe `to` until it answers as it did, and write `output`.

    The teacher is the model as it is; what is made small is the KL divergence of its answers from the student's on
    `data` (as `finetune` takes it), of which `labels` is the share of the text's own cross-entropy. `begin` is the same
    model quantized in the same formats, by a method that chose better codes than the nearest. `output` is a GGUF
    file, or without an ending a model directory in `dialect` (None: our own), written from the numbers that were
    trained, none of them rounded again, with a card beside it. The rest is as in `finetune`. Raises a FewbitsError, one
    sentence.
    """
    job = Job(
        source=str(source),
        output=Path(output),
        reading=data if isinstance(data, Reading) else Reading(data),
        settings=settings or Settings(learning_rate=1e-4),
        resume=resume,
        stop_at=stop_at,
        force=force,
        dry_run=dry_run,
        threads=threads,
        revision=revision,
        plot=None if plot is None else Path(plot),
        logs=None if logs is None else Path(logs),
        on_preview=on_preview,
        progress=progress,
        on_step=on_step,
    )
    own = tensors if isinstance(tensors, Mapping) else list(tensors)
    return carry_out(_Teaching(str(to), own, labels, temperature, None if begin is None else str(begin), dialect), job)


@dataclass(frozen=True)
class _Teaching:
    """A student in the numbers of a recipe, and its float teacher."""

    to: str
    tensors: Mapping[str, str] | list[str]
    labels: float
    temperature: float
    begin: str | None
    dialect: str | None

    verb = "qat"
    measure = "KL divergence from the teacher"
    packages: ClassVar[tuple[str, ...]] = ()

    def method(self) -> dict[str, Any]:
        """What is learned, and from whom."""
        return {
            "to": self.to,
            "tensors": dict(self.tensors) if isinstance(self.tensors, Mapping) else list(self.tensors),
            "labels": self.labels,
            "temperature": self.temperature,
            "begin": self.begin,
        }

    def require_free(self, job: Job) -> None:
        """Refuse an output that is somebody's, and what cannot be taught."""
        if not 0 <= self.labels <= 1:
            raise TrainingError(f"labels={self.labels} is not a share of the loss (0 to 1); correct it.")
        if not 0 < self.temperature < float("inf"):
            raise TrainingError(f"temperature={self.temperature} is not a number above 0; correct it.")
        require_output(job.output, self.dialect, force=job.force or job.resume)

    def pupil(self, path: Path, job: Job) -> Pupil:
        """The model as it is, and a copy of it that computes with what it will be stored as."""
        from fewbits.evaluation.model_files import open_model
        from fewbits.loading.load import load
        from fewbits.training.beginning import begin_at
        from fewbits.training.preparing import parameter_groups, prepare

        require_storable(path, job, self.to, self.tensors, self.dialect)
        teacher: Any = open_model(path).load().network.requires_grad_(False).eval()
        student = copy.deepcopy(teacher).requires_grad_(True)
        prepare(student, self.to, tensors=self.tensors)
        if self.begin is not None:
            begin_at(student, load(self.begin))
        plan: Any = student.fewbits_plan
        formats: dict[str, int] = {}
        for name in plan.formats.values():
            formats[name] = formats.get(name, 0) + 1
        rates = parameter_groups(student, 1.0, STEPS_RATE, job.settings.weight_decay)
        return Pupil(
            student,
            path,
            formats,
            count_numbers(teacher),
            digest_of(teacher),
            notes=plan.notes,
            loss=self._loss(teacher),
            groups=[{"rate": group.pop("lr"), **group} for group in rates],
            memory={"teacher": sum(p.numel() * p.element_size() for p in teacher.parameters())},
        )

    def publish(self, pupil: Pupil, job: Job, record: TrainingRecord) -> TrainingRecord:
        """Write the model that was taught."""
        return publish_taught(pupil, job, record, self.dialect)

    def _loss(self, teacher: Any) -> Loss:
        def loss(student: Any, batch: Any) -> tuple[torch.Tensor, int]:
            given = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
            with torch.no_grad():
                wanted = teacher(**given, use_cache=False).logits[:, :-1]
            answered = student(**given, use_cache=False).logits
            counts = batch["labels"][:, 1:] != IGNORED
            count = int(counts.sum())
            total = distillation(answered[:, :-1], wanted, self.temperature, counts) * count
            if not (self.labels and student.training):  # what is held out is measured by the teacher alone
                return total, count
            return (1 - self.labels) * total + self.labels * summed(answered, batch["labels"])[0], count

        return loss
