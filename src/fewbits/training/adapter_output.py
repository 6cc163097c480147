"""The folder of an adapter: peft's files, and the record of how they came about; whole, or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewbits.checkpoints.partial_file import PartialDirectory, partial_path, sync_folder
from fewbits.errors import TrainingError
from fewbits.reporting.training_record import TrainingRecord
from fewbits.training.state import write_json

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
    record = replace(record, files={"adapter": str(output), **record.files})
    folder = PartialDirectory(partial_path(output), output)
    try:
        model.save_pretrained(str(folder.path))
        write_json(folder.path / RECORD, record.to_json())
        _sync_all(folder.path)
        replaced = output.with_name(f".{output.name}.replaced")
        if output.exists():
            output.rename(replaced)
        folder.path.rename(output)
        folder.close()
        sync_folder(output.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        folder.discard()
    return record


def _sync_all(folder: Path) -> None:
    """Everything on the disk, and as open to others as the folder is: safetensors makes files of its owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
