"""What `fewbits.convert` does: decide everything, move every tensor, verify, publish."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from fewbits import kernels
from fewbits.checkpoints import dialects
from fewbits.checkpoints.dialects import OWN
from fewbits.checkpoints.gguf_split import read_size
from fewbits.checkpoints.model_directory import require_replaceable
from fewbits.checkpoints.onnx.layout import data_path
from fewbits.checkpoints.onnx.source import is_onnx
from fewbits.conversion.job import Job, Piece
from fewbits.conversion.sources import directory_source, file_source
from fewbits.conversion.to_directory import to_directory
from fewbits.conversion.to_gguf import to_gguf
from fewbits.conversion.to_onnx import to_onnx
from fewbits.digest import Digests
from fewbits.errors import CheckpointError
from fewbits.gguf_target import GGUFTarget
from fewbits.hub.locating import locate
from fewbits.memory import PeakMemory
from fewbits.onnx_target import require_same_container
from fewbits.preflight import require_room, require_writable
from fewbits.reporting.card import card_path, publish_with_card
from fewbits.reporting.record import Record, TensorResult
from fewbits.request import Progress
from fewbits.targets import Writer
from fewbits.versions import versions
from fewbits.workers import Workers


@dataclass(frozen=True)
class Asked:
    """What the user wants to have, as `fewbits.convert` explains it."""

    output: Path
    dialect: str | None
    like: str | Path | None
    split_size: int | str | None
    force: bool
    dry_run: bool

    @property
    def largest(self) -> int | None:
        """Bytes of a file of weights, at most; raises CheckpointError where that is no size."""
        return None if self.split_size is None else read_size(self.split_size)


def plan(given: str, asked: Asked, *, revision: str | None) -> Job:
    """Everything that is decided before any weight is moved; raises FewbitsError where it cannot be."""
    path, output, largest = Path(locate(given, revision=revision).path).expanduser(), asked.output, asked.largest
    if not path.exists():
        raise CheckpointError(f"{given} does not exist; give a model directory, a GGUF file, or a hub id (org/name).")
    if path.resolve() == output.resolve():
        raise CheckpointError(f"{output} is the source itself; choose another output.")
    if is_onnx(path) or is_onnx(output):
        return _graph(given, path, asked)
    if output.suffix.lower() == ".gguf":
        return _file(given, path, asked, GGUFTarget(largest))
    require_replaceable(output, force=asked.force)
    if not output.exists():
        require_writable(output, card_path(output), force=asked.force, dry_run=asked.dry_run)
    source = file_source(given, path, asked.like) if path.is_file() else directory_source(given, path)
    wanted = None if (name := asked.dialect or OWN) == OWN else dialects.get(name)
    if name == source.dialect:
        raise CheckpointError(f"{given} is in the dialect {name} already; choose another with --dialect.")
    return to_directory(source, output, wanted, largest)


def _graph(given: str, path: Path, asked: Asked) -> Job:
    """Into a graph, which is one file and its data."""
    require_same_container(given, asked.output)
    if asked.split_size is not None:
        raise CheckpointError(f"{asked.output} is an ONNX file, which is not split; leave --split-size out.")
    for each in (data_path(asked.output), asked.output):
        require_writable(each, card_path(asked.output), force=asked.force, dry_run=asked.dry_run)
    return to_onnx(given, path, asked.output, asked.dialect)


def _file(given: str, path: Path, asked: Asked, target: GGUFTarget) -> Job:
    """Into a GGUF file, or its parts."""
    output = asked.output
    if asked.dialect is not None:
        raise CheckpointError(f"{output} is a GGUF file, which has no dialects; leave --dialect out.")
    target.require_room_for(output, force=asked.force, dry_run=asked.dry_run)
    if path.is_file():
        raise CheckpointError(f"{path} is a GGUF file already; give an output without an ending for a directory.")
    return to_gguf(directory_source(given, path), output, target)


def run(job: Job, workers: Workers, digests: Digests, progress: Progress, started: float) -> Record:
    """Everything after the preview; some of `digests` may have begun."""
    require_room(job.output, job.size)
    began = datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - started)
    with PeakMemory() as memory, ExitStack() as stack:
        for file in job.files:
            digests.begin(file)
        writer = stack.enter_context(job.open())
        _move(job, writer, workers, partial(progress, "convert"))
        writer.start_flush()
        verifying = time.perf_counter()
        expected = {piece.name: piece.expected for piece in job.pieces}
        digest = job.verify(expected, workers, partial(progress, "verify"))
        seconds_verifying = time.perf_counter() - verifying
        writer.sync()
        record = Record(
            preview=job.preview,
            tensors=tuple(TensorResult(tensor, 0.0) for tensor in job.preview.tensors),
            source_sha256=digests.of(list(job.files)),
            output_sha256=digest.whole,
            parts_sha256=dict(zip(job.preview.parts, digest.parts or (digest.whole,), strict=False)),
            seed=0,
            seconds=time.perf_counter() - started,
            seconds_verifying=seconds_verifying,
            peak_memory=memory.peak,
            versions=versions(),
            isa=kernels.isa(),
            threads=workers.threads,
            card=str(card_path(job.output)),
            started=began.isoformat(timespec="seconds"),
        )
        publish_with_card(record, writer.publish)
    return record


def _move(job: Job, writer: Writer, workers: Workers, progress: Callable[[int, int], None]) -> None:
    """Write every tensor, one at a time per thread."""
    total, done = sum(piece.planned.bytes_in for piece in job.pieces), 0

    def write(piece: Piece) -> None:
        writer.write_fields(piece.name, 0, piece.fields())

    for piece, _ in workers.in_order(write, job.pieces):
        done += piece.planned.bytes_in
        progress(done, total)
