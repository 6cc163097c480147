"""The folder of an adapter: peft's files, and the record of how they came about; whole, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewbits import planning
from fewbits.checkpoints.partial_file import PartialDirectory, partial_path
from fewbits.errors import TrainingError
from fewbits.reporting.training_record import TrainingRecord
from fewbits.training.fitting.folders import settle, take_place
from fewbits.training.fitting.state import write_json
from fewbits.training.job import Job

RECORD = "fewbits_training.json"


def require_replaceable(output: Path, *, force: bool) -> None:
    """Refuse an output that exists, and with `force` one that is no adapter written here."""
    if not output.exists():
        return
    if not force:
        raise TrainingError(f"{output} exists already; choose another output, or replace it with --force.")
    if not output.is_dir() or (any(output.iterdir()) and not (output / RECORD).is_file()):
        raise TrainingError(f"{output} is no adapter that fewbits wrote, and is not replaced; choose another output.")


def publish_adapter(model: Any, output: Path, record: TrainingRecord) -> TrainingRecord:
    """Write the adapter of `model` and the record to `output`, which appears complete; the record says where."""
    from fewbits.training.lora.saving import write_adapter

    record = replace(record, files={"adapter": str(output), **record.files})
    folder = PartialDirectory(partial_path(output), output)
    try:
        write_adapter(model, folder.path)
        write_json(folder.path / RECORD, record.to_json())
        settle(folder.path)
        take_place(folder.path, output)
        folder.close()
    finally:
        folder.discard()
    return record


@dataclass(frozen=True)
class After:
    """What is made of an adapter when it is there."""

    merge: Path | None
    merge_to: str | Path
    gguf: Path | None

    def require_free(self, *, force: bool) -> None:
        """Refuse, before any work, outputs that exist, or that cannot be written."""
        for path in (self.merge, self.gguf):
            if path is None:
                continue
            if path.exists() and not force:
                raise TrainingError(f"{path} exists already; choose another output, or replace it with --force.")
            if not path.parent.is_dir():
                raise TrainingError(f"{path} cannot be written: {path.parent} is no directory; create it first.")
        if self.gguf is not None and self.gguf.suffix != ".gguf":
            raise TrainingError(f"{self.gguf} does not end in .gguf, as adapters for llama.cpp do; name it so.")
        planning.get(self.merge_to)

    def done(self, record: TrainingRecord, base: Path, job: Job) -> TrainingRecord:
        """Write what was asked for; the record says where, and how far the adapter moved the base."""
        files, details = dict(record.files), dict(record.details)
        if self.gguf is not None:
            from fewbits.training.lora.gguf import adapter_to_gguf

            files["adapter for llama.cpp"] = str(adapter_to_gguf(job.output, base, self.gguf, force=job.force))
        if self.merge is not None:
            from fewbits.training.lora.merging import merge_adapter

            options: dict[str, Any] = {"to": self.merge_to, "force": job.force, "progress": job.progress}
            merged = merge_adapter(base, job.output, self.merge, **options)
            files["merged"] = str(self.merge)
            details["merged"] = {"words": merged.words, "notes": list(merged.notes)}
        return replace(record, files=files, details=details)
