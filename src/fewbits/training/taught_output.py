"""A model that was trained in its formats becomes a file: packed as it computed, then converted number for number."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewbits.checkpoints.dialects import OWN
from fewbits.checkpoints.fields import PLAIN, StoredMatrix
from fewbits.checkpoints.model_directory import require_replaceable
from fewbits.errors import TrainingError, VerificationError
from fewbits.layers.modules import Packed
from fewbits.reporting.card import card_path
from fewbits.reporting.training_record import TrainingRecord
from fewbits.request import training_path
from fewbits.training.fitting.folders import settle, take_place
from fewbits.training.fitting.state import write_json
from fewbits.training.job import Job, Pupil


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


def require_storable(
    path: Path, job: Job, recipe: str, tensors: Mapping[str, str] | list[str], dialect: str | None
) -> None:
    """Refuse, before any work, formats that the output cannot hold, as `quantize` does."""
    from fewbits.quantizing import quantize_checkpoint

    options: dict[str, Any] = {"to": recipe, "tensors": tensors, "dialect": dialect, "method": "nearest"}
    quantize_checkpoint(path, job.output, force=True, dry_run=True, **options)


def publish_taught(pupil: Pupil, job: Job, record: TrainingRecord, dialect: str | None) -> TrainingRecord:
    """Pack the student, write it beside its state, and make that the output, or convert it to it, number for number."""
    from fewbits.conversion.convert import convert as rewrite
    from fewbits.inspection import inspect
    from fewbits.loading.tokens import load_tokenizer

    packed = training_path(job.output) / "packed"
    shutil.rmtree(packed, ignore_errors=True)
    _write_packed(pupil.model, packed)
    load_tokenizer(pupil.path).save_pretrained(packed)
    files = {"model": str(job.output)}
    if job.output.suffix == ".gguf" or dialect not in {None, OWN}:
        written: Any = rewrite(packed, job.output, dialect=dialect, force=job.force or job.resume, threads=job.threads)
        files["card"] = str(written.card)
        shutil.rmtree(packed)
    else:
        settle(packed)
        take_place(packed, job.output)
    files["record"] = str(record_path(job.output))
    found = inspect(job.output)
    sizes = {"bytes": found.file_bytes, "bits_per_weight": found.bits_per_weight}
    record = replace(record, files=files | record.files, details=sizes)
    write_json(record_path(job.output), record.to_json())
    return record


def _write_packed(student: torch.nn.Module, folder: Path) -> None:
    """The student in our own dialect, read again and compared with what it computes with."""
    from fewbits.loading.sources import open_source
    from fewbits.training.converting import convert

    network: Any = convert(student)
    network.hf_quantizer.quantization_config.dialect = OWN
    network.save_pretrained(folder)
    modules = {f"{name}.weight": module for name, module in network.named_modules() if isinstance(module, Packed)}
    for name, piece in open_source(folder).pieces.items():
        if not isinstance(piece, StoredMatrix) or piece.format in PLAIN:
            continue
        wanted, found = modules[name].matrix.stored() if name in modules else {}, piece.load()
        if found.keys() != wanted.keys() or not all(_same(found[key], wanted[key]) for key in wanted):
            raise VerificationError(f"{folder}: {name} is not what was trained; nothing is kept of the output.")


def _same(found: Any, wanted: Any) -> bool:
    return bool(np.array_equal(np.asarray(found).view(np.uint8), np.asarray(wanted).view(np.uint8)))
