"""The card beside a quantized file: the record of what was done to each tensor and what it cost, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from fewbits.reporting.record import Record


def card_path(output: Path) -> Path:
    """Where the card of `output` lies.

    >>> card_path(Path("model-Q4_K_M.gguf")).name, card_path(Path("model.bin")).name
    ('model-Q4_K_M.card.json', 'model.bin.card.json')
    """
    stem = output.name.removesuffix(".gguf")
    return output.with_name(f"{stem or output.name}.card.json")


def stage_card(record: Record) -> Path:
    """Write the card of `record` in full beside `record.card`, synced, and return where; `publish_card` names it."""
    # The name is always the same, so what a killed run leaves behind is overwritten and renamed by the next one.
    part = _staged(Path(record.card))
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            json.dump(record.to_json(), file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return part


def publish_card(record: Record) -> Path:
    """Make the staged card appear under its name at once, and return it."""
    path = Path(record.card)
    _staged(path).replace(path)
    _sync_directory(path.parent)
    return path


def discard_card(record: Record) -> None:
    """Forget a staged card; nothing happens when there is none."""
    with contextlib.suppress(OSError):
        _staged(Path(record.card)).unlink()


def publish_with_card(record: Record, publish: Callable[[], None]) -> None:
    """Output and card appear together: the card is complete on the disk before `publish` names the output."""
    try:
        stage_card(record)
        publish()
        publish_card(record)
    finally:
        discard_card(record)


def write_card(record: Record) -> Path:
    """Write the card of `record` to `record.card` and return its path: the whole file appears at once, or none does."""
    stage_card(record)
    try:
        return publish_card(record)
    except BaseException:
        discard_card(record)
        raise


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _sync_directory(directory: Path) -> None:
    """Make the rename last through a power cut, where the system lets a directory be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
