"""Checks and estimates before any work: what would fail after an hour fails now, in one sentence."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fewbits import formats, kernels
from fewbits.errors import CheckpointError
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import SLAB_BYTES

_PROBE_ROWS, _PROBE_COLS = 64, 4096
_HASH_RATE = 1.2e9
"""Bytes of SHA-256 per second and processor; measured figures lie between 0.5e9 and 2e9."""


def require_writable(output: Path, card: Path, *, force: bool, dry_run: bool) -> None:
    """Refuse an output that exists (without `force`), is a directory, or lies where nothing can be written."""
    if output.is_dir():
        raise CheckpointError(f"{output} is a directory; give the name of the file to write.")
    if output.exists() and not output.is_file():
        raise CheckpointError(f"{output} is not a regular file; give the name of the file to write.")
    taken = next((p for p in (output, card) if p.exists()), None)
    if taken is not None and not force:
        raise CheckpointError(f"{taken} exists already; choose another output, or replace it with --force.")
    folder = output.parent
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no directory to write {output.name} into; create it first.")
    if not dry_run and not os.access(folder, os.W_OK):
        raise CheckpointError(f"{folder} cannot be written to; choose another output or change its permissions.")


def require_room(output: Path, size: int, meanwhile: int = 0) -> None:
    """Refuse when the disk has less than `size` bytes free, and those that are needed `meanwhile`."""
    free = shutil.disk_usage(output.parent).free
    if free < size + meanwhile:
        more = f", and {meanwhile / 1e6:.1f} MB for the rotated model until it is there" if meanwhile else ""
        raise CheckpointError(
            f"{output.parent} has {free / 1e6:.1f} MB free and {output.name} needs {size / 1e6:.1f} MB{more}; "
            "free some space or choose another disk."
        )


def estimate_memory(threads: int) -> int:
    """Bytes that the work adds to the process: a few slabs in work or waiting per thread, and their copies."""
    return 3 * threads * 2 * SLAB_BYTES


def estimate_seconds(tensors: Iterable[PlannedTensor], files: Iterable[Path], threads: int) -> float:
    """Seconds until the end, from a measured rate per format on this machine; reading and writing disks not counted."""
    elements: dict[str, int] = {}
    for t in tensors:
        elements[t.format] = elements.get(t.format, 0) + t.parameters
    seconds = sum(count * _seconds_per_element(name) for name, count in elements.items())
    hashed = sum(f.stat().st_size for f in files) + sum(
        count * formats.bits_per_weight(formats.get(name)) / 8 for name, count in elements.items()
    )
    return (seconds + hashed / _HASH_RATE) / threads


def _seconds_per_element(name: str) -> float:
    """Encoding and verifying one number: tried on a small matrix; formats without a native codec are much slower."""
    if name not in kernels.formats():
        return 1e-6
    format = formats.get(name)
    w = np.sin(np.arange(_PROBE_ROWS * _PROBE_COLS, dtype=np.float32)).reshape(_PROBE_ROWS, _PROBE_COLS).view(np.uint8)
    began = time.perf_counter()
    encoded = kernels.encode_rows(name, w, "F32", formats.row_bytes(format, _PROBE_COLS))
    kernels.compare_rows(name, encoded.stored, w, "F32")
    return (time.perf_counter() - began) / (_PROBE_ROWS * _PROBE_COLS)
