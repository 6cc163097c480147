"""A model that was trained in its formats becomes a file: packed as it computed, then converted number for number."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewbits.checkpoints.model_directory import require_replaceable
from fewbits.errors import TrainingError
from fewbits.reporting.card import card_path
from fewbits.reporting.training_record import TrainingRecord
from fewbits.request import training_path
from fewbits.training.job import Job, Pupil
from fewbits.training.state import write_json


def record_path(output: Path) -> Path:
    """Where the record of the training that made `output` lies.

    >>> record_path(Path("model.gguf")).name
    'model.training.json'
    """
    stem = card_path(output).name.removesuffix(".card.json")
    return output.with_name(f"{stem}.training.json")


def require_output(output: Path, dialect: str | None, *, force: bool) -> None:
    """Refuse, before any work, an output that could not be written."""
    if output.suffix not in {"", ".gguf"}:
        raise TrainingError(f"{output} ends neither in .gguf nor in nothing, as a model directory does; name it so.")
    if output.suffix == ".gguf" and dialect is not None:
        raise TrainingError(
            f"{output} is a GGUF file, and only a model directory has a dialect; leave one of them out."
        )
    if output.is_dir() or not output.exists():
        require_replaceable(output, force=force)
    elif not force:
        raise TrainingError(f"{output} exists already; choose another output, or replace it with --force.")


def publish_taught(pupil: Pupil, job: Job, record: TrainingRecord, dialect: str | None) -> TrainingRecord:
    """Pack the student, write it beside its state, and convert that to the output, where it appears verified."""
    from fewbits.conversion.convert import convert as rewrite
    from fewbits.loading.tokens import load_tokenizer
    from fewbits.training.converting import convert

    packed = training_path(job.output) / "packed"
    shutil.rmtree(packed, ignore_errors=True)
    network: Any = convert(pupil.model)
    network.save_pretrained(packed)
    load_tokenizer(job.source, revision=job.revision).save_pretrained(packed)
    written: Any = rewrite(packed, job.output, dialect=dialect, force=job.force or job.resume, threads=job.threads)
    shutil.rmtree(packed)
    files = {"model": str(job.output), "card": str(written.card), **record.files}
    files["record"] = str(record_path(job.output))
    sizes = {"bytes": written.preview.bytes_out, "bits_per_weight": written.preview.bits_per_weight}
    record = replace(record, files=files, details=sizes | {"output_sha256": written.output_sha256})
    write_json(record_path(job.output), record.to_json())
    return record
