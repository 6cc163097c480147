"""`fewbits.finetune`: an adapter (LoRA) on a base that stays as it is, packed in any format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fewbits import request
from fewbits.reporting.training_record import TrainingPreview, TrainingRecord
from fewbits.training.fitting.loop import Progress as OnStep
from fewbits.training.fitting.settings import Settings
from fewbits.training.fitting.state import count_numbers
from fewbits.training.job import Job, Pupil, carry_out, unheard
from fewbits.training.lora.output import After, publish_adapter, require_replaceable
from fewbits.training.material.reading import Reading


def finetune(
    source: str | Path,
    output: str | Path,
    *,
    data: str | Path | Reading,
    base: str | None = None,
    lora: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    merge: str | Path | None = None,
    merge_to: str | Path = "BF16",
    gguf: str | Path | None = None,
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
    """Train an adapter of rank `lora` on the model `source` and write it to the folder `output` as peft's.

    `source` is a model directory in any dialect, a GGUF file or a hub id. Its matrices stay packed as they are, or are
    quantized to `base` (a format or recipe) while they are read. `data` is a file of JSON lines that have a "text",
    "messages" (whose answers alone are learned) or a "prompt" and a "completion", or a text; a `Reading` says how it
    is read, and what is held out. The state is kept beside `output` until that is there, and `resume=True` goes on from
    it, to the same losses; `stop_at` ends after a step and writes what there is. Afterwards the base with the adapter
    is written to `merge` in the recipe `merge_to`, and the adapter to `gguf`, for llama.cpp. `plot` is a picture of the
    losses, `logs` a folder for TensorBoard. `dry_run=True` tries a step and returns the preview. Raises a FewbitsError.
    """
    names = targets if isinstance(targets, str) else list(targets)
    job = Job(
        source=str(source),
        output=Path(output),
        reading=data if isinstance(data, Reading) else Reading(data),
        settings=settings or Settings(),
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
    after = After(None if merge is None else Path(merge), merge_to, None if gguf is None else Path(gguf))
    return carry_out(_Adapting(base, lora, alpha, dropout, names, after), job)


@dataclass(frozen=True)
class _Adapting:
    """A base, and what is added to it."""

    base: str | None
    rank: int
    alpha: float | None
    dropout: float
    targets: str | list[str]
    after: After

    verb = "finetune"
    measure = "cross-entropy"
    packages: ClassVar[tuple[str, ...]] = ("peft",)

    def method(self) -> dict[str, Any]:
        """What is learned."""
        return {name: getattr(self, name) for name in ("base", "rank", "alpha", "dropout", "targets")}

    def require_free(self, job: Job) -> None:
        """Refuse an output that is somebody's."""
        require_replaceable(job.output, force=job.force or job.resume)
        self.after.require_free(force=job.force)

    def pupil(self, path: Path, job: Job) -> Pupil:
        """The base with its adapter."""
        from fewbits.loading.load import load
        from fewbits.training.lora.adding import add_lora
        from fewbits.training.lora.base import base_of

        network = load(path, to=self.base)
        count = count_numbers(network)
        adapted = add_lora(
            network,
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.targets,
            seed=job.settings.seed,
        )
        held: Any = network.fewbits
        base = vars(adapted)["fewbits_base"] = base_of(network)  # its files are read once
        return Pupil(adapted, path, held.formats, count, base.sha256, notes=held.notes)

    def publish(self, pupil: Pupil, job: Job, record: TrainingRecord) -> TrainingRecord:
        """Write the adapter."""
        return self.after.done(publish_adapter(pupil.model, job.output, record), pupil.path, job)
