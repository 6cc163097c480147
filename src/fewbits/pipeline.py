"""Checkpoint in, checkpoint out: the one file that meets formats, methods and containers, through their protocols.

Preflight decides everything and writes nothing; then tensors stream through in slabs of rows; then the file is verified
under its temporary name, and only then does it appear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import numpy as np

from fewbits import formats, kernels, methods, planning
from fewbits.assignment import Assignment, assign
from fewbits.checkpoints.base import Bytes, Conversion, Placement, StoredTensor, Value
from fewbits.checkpoints.ggml_types import file_type
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_writer import GGUFWriter, Layout, plan_layout
from fewbits.checkpoints.imatrix import Importance, read_importance
from fewbits.checkpoints.opening import open_source
from fewbits.checkpoints.partial_file import partial_path
from fewbits.digest import sha256_of
from fewbits.errors import CheckpointError
from fewbits.memory import PeakMemory, resident_memory
from fewbits.methods import Method
from fewbits.planning import Recipe
from fewbits.preflight import estimate_memory, estimate_seconds, require_room, require_writable, usable_threads
from fewbits.reporting.card import card_path, discard_card, publish_card, stage_card
from fewbits.reporting.record import ImportanceUsed, PlannedTensor, Preview, Record, TensorResult
from fewbits.verification import Expectation, expect_directory, expect_gguf, relative_rms, verify
from fewbits.versions import versions
from fewbits.workers import Workers, row_slabs

Progress = Callable[[str, int, int], None]
QUANTIZATION_VERSION = 2
"""ggml's version of the layouts of quantized tensors."""


def quantize(
    source: str | Path,
    output: str | Path,
    *,
    to: str | Path = "Q4_K_M",
    tensors: Mapping[str, str] | Iterable[str] = (),
    importance: str | Path | None = None,
    method: str = "nearest",
    force: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    progress: Progress | None = None,
) -> Record | Preview:
    """Quantize `source` (HF directory, hub id, or F32/F16/BF16 GGUF) into the GGUF file `output`, verified.

    `to` names a recipe or a TOML file that states one. `tensors` gives some tensors other formats:
    {"blk.*.ffn_down": "Q6_K"} or ["blk.*.ffn_down=Q6_K"]. `importance` is a file of llama-imatrix by which errors are
    weighed. `threads` None means all processors. Returns the record that was also written beside `output` as a card, or
    the preview when `dry_run`. Raises FewbitsError, one sentence, and leaves nothing at `output` when anything fails.
    """
    started = time.perf_counter()
    output = Path(output)
    workers_wanted = usable_threads(threads)
    overrides = planning.parse_overrides(tensors)
    recipe, chosen = planning.get(to).with_overrides(overrides), methods.get(method)
    require_writable(output, card_path(output), force=force, dry_run=dry_run)
    weigher = read_importance(Path(importance)) if importance is not None else None
    conversion = _open(str(source), output, revision)
    extras = [Path(file) for file in (recipe.source, importance) if file]
    with Workers(workers_wanted) as workers:
        # Hashing begins while the rest is planned: it is a quarter of the work, and one thread is free.
        files = () if dry_run else (*conversion.files, *extras)
        digests = {str(f): workers.submit(partial(sha256_of, f, workers.cancelled)) for f in files}
        assignment = assign(conversion, recipe, chosen, weigher)
        job = _plan(conversion, str(source), output, recipe, assignment, workers_wanted)
        if on_preview:
            on_preview(job.preview)
        if dry_run:
            return job.preview
        require_room(output, job.layout.size)
        return _work(job, chosen, workers, digests, started, seed, progress or _silent)


def _work(
    job: _Job,
    method: Method,
    workers: Workers,
    digests: Mapping[str, Future[str]],
    started: float,
    seed: int,
    progress: Progress,
) -> Record:
    """Everything after the preview; `started` is the clock at the very beginning."""
    began = datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - started)
    with PeakMemory() as memory, GGUFWriter(job.output, job.layout) as writer:
        outcome = _run(job, method, writer, workers, progress)
        card = str(card_path(job.output))
        record = Record(
            preview=job.preview,
            tensors=outcome.tensors,
            source_sha256={name: digest.result() for name, digest in digests.items()},
            output_sha256=outcome.output_sha256,
            seed=seed,
            seconds=time.perf_counter() - started,
            seconds_verifying=outcome.seconds_verifying,
            peak_memory=memory.peak,
            versions=versions(),
            isa=kernels.isa(),
            threads=workers.threads,
            card=card,
            started=began.isoformat(timespec="seconds"),
        )
        _publish(writer, record)
    return record


def _publish(writer: GGUFWriter, record: Record) -> None:
    """File and card appear together: the card is complete on the disk before the file gets its name."""
    try:
        stage_card(record)
        writer.publish()
        publish_card(record)
    finally:
        discard_card(record)


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class _Job:
    """Everything decided before any weight is read."""

    output: Path
    conversion: Conversion
    metadata: Mapping[str, Value]
    layout: Layout
    preview: Preview
    importance: Mapping[str, Importance]


@dataclass(frozen=True)
class _Outcome:
    tensors: tuple[TensorResult, ...]
    output_sha256: str
    seconds_verifying: float


def _open(source: str, output: Path, revision: str | None) -> Conversion:
    conversion = open_source(source, revision=revision)
    if any(f.resolve() == output.resolve() for f in conversion.files):
        raise CheckpointError(f"{output} is the source itself; choose another output.")
    return conversion


def _plan(
    conversion: Conversion, source: str, output: Path, recipe: Recipe, assignment: Assignment, threads: int
) -> _Job:
    tensors = assignment.tensors
    metadata = {**conversion.metadata, **_file_metadata(recipe, assignment.used)}
    rows = [(t.name, t.format, t.shape, t.bytes_out) for t in tensors]
    layout = plan_layout(conversion.architecture, metadata, rows)
    preview = Preview(
        source=source,
        output=str(output),
        recipe=recipe.name,
        nominal_format=recipe.nominal,
        architecture=conversion.architecture,
        tensors=tensors,
        notes=(*conversion.notes, *assignment.notes),
        bytes_in=sum(t.bytes_in for t in tensors),
        bytes_out=layout.size,
        seconds_estimated=estimate_seconds(tensors, conversion.files, threads),
        memory_estimated=resident_memory() + estimate_memory(threads),
        recipe_file=recipe.source or None,
        overrides=recipe.overrides,
        importance=assignment.used,
    )
    return _Job(output, conversion, metadata, layout, preview, assignment.importance)


def _file_metadata(recipe: Recipe, used: ImportanceUsed | None) -> dict[str, Value]:
    stated = {"general.quantization_version": Value(QUANTIZATION_VERSION, "uint32")}
    if recipe.file_type:
        stated["general.file_type"] = Value(file_type(recipe.file_type), "uint32")
    if used:
        stated["quantize.imatrix.file"] = Value(Path(used.file).name, "string")
        stated["quantize.imatrix.dataset"] = Value(used.text, "string")
        stated["quantize.imatrix.entries_count"] = Value(used.entries, "uint32")
        stated["quantize.imatrix.chunks_count"] = Value(used.chunks, "uint32")
    return stated


def _run(job: _Job, method: Method, writer: GGUFWriter, workers: Workers, progress: Progress) -> _Outcome:
    """Encode, write, verify, and wait for the disk."""
    tensors = _encode_all(job, method, writer, workers, progress)
    writer.start_flush()
    verifying = time.perf_counter()
    sha256 = _verify(job, tensors, workers, progress)
    seconds = time.perf_counter() - verifying
    writer.sync()
    return _Outcome(tensors, sha256, seconds)


def _encode_all(
    job: _Job, method: Method, writer: GGUFWriter, workers: Workers, progress: Progress
) -> tuple[TensorResult, ...]:
    planned = {t.name: t for t in job.preview.tensors}
    placements = {p.name: p for p in job.conversion.placements}
    work = [
        (name, start, stop)
        for name in planned
        for start, stop in _slabs(placements[name].source, job.importance.get(name))
    ]

    def encode(item: tuple[str, int, int]) -> kernels.Encoded:
        name, start, stop = item
        source = placements[name].source
        weights = job.importance.get(name)
        row = weights.row(start * weights.matrices // source.rows) if weights else None
        slab = placements[name].slab(start, stop)
        encoded = encode_slab(method, planned[name], source.format, slab, row)
        writer.write_rows(name, start, encoded.stored)
        return replace(encoded, stored=np.empty((0, 0), np.uint8))

    errors: dict[str, list[kernels.Doubles]] = {name: [] for name in planned}
    squares: dict[str, list[kernels.Doubles]] = {name: [] for name in planned}
    done = 0
    for (name, start, stop), encoded in workers.in_order(encode, work):
        _require_representable(placements[name], planned[name], encoded)
        errors[name].append(encoded.squared_error)
        squares[name].append(encoded.squared)
        done += placements[name].source.row_bytes * (stop - start)
        progress("quantize", done, job.preview.bytes_in)
    return tuple(TensorResult(t, relative_rms(errors[t.name], squares[t.name])) for t in planned.values())


def _slabs(source: StoredTensor, importance: Importance | None) -> Iterator[tuple[int, int]]:
    """Row ranges of `source`; with importance none reaches into a second matrix."""
    height = source.rows // (importance.matrices if importance else 1)
    for first in range(0, source.rows, max(1, height)):
        for start, stop in row_slabs(height, source.row_bytes):
            yield first + start, first + stop


def encode_slab(
    method: Method, tensor: PlannedTensor, numbers: str, slab: Bytes, importance: kernels.Floats | None = None
) -> kernels.Encoded:
    """Encode `slab` (rows, bytes of `numbers`) of `tensor`: natively where that is all the method does.

    `importance` (cols,) weighs errors where it is given.
    """
    format = formats.get(tensor.format)
    cols = slab.shape[1] // kernels.NUMBERS[numbers]
    row_bytes = formats.row_bytes(format, cols)
    if format.name in kernels.formats() and (method.codec_is_enough or not tensor.quantizable):
        return kernels.encode_rows(format.name, slab, numbers, row_bytes, importance=importance)
    import torch

    w = torch.from_numpy(kernels.decode_rows(numbers, slab, cols))
    stats = {} if importance is None else {"importance": torch.from_numpy(importance)}
    q = method.solve(w, format, stats)
    back = q.dequantize().double()
    largest, not_finite = kernels.extent(slab, numbers)
    error, square = (w.double() - back).square().sum(1).numpy(), w.double().square().sum(1).numpy()
    return kernels.Encoded(q.packed(), error, square, largest, not_finite)


def _require_representable(placement: Placement, tensor: PlannedTensor, encoded: kernels.Encoded) -> None:
    """Refuse NaN, infinity, and numbers beyond the format's range, naming the tensor and how many there are."""
    source = placement.source
    if encoded.not_finite:
        count = sum(
            kernels.extent(source.slab(a, b), source.format)[1] for a, b in row_slabs(source.rows, source.row_bytes)
        )
        raise CheckpointError(
            f"tensor {source.name} of the source holds {count} NaN or infinite numbers; "
            "the checkpoint is damaged or was trained to divergence: repair or replace it."
        )
    limit = formats.get(tensor.format).largest
    if encoded.largest > limit:
        raise CheckpointError(
            f"tensor {source.name} of the source holds {encoded.largest:.6g}, beyond {limit:.6g}, the largest number "
            f"of {tensor.format}; choose another recipe, BF16 for instance."
        )


def _verify(job: _Job, tensors: tuple[TensorResult, ...], workers: Workers, progress: Progress) -> str:
    written = partial_path(job.output)
    first = job.conversion.files[0]
    if first.name == "config.json":
        sources = expect_directory(first.parent, GGUFReader(written))
    else:
        sources = expect_gguf(GGUFReader(first))
    computed = {p.name: (p.source, None) for p in job.conversion.placements if p.computed}
    planned = {t.planned.name: t for t in tensors}
    expected = {
        name: Expectation(
            source, order, planned[name].planned.format, planned[name].relative_rms, name in job.importance
        )
        for name, (source, order) in {**sources, **computed}.items()
        if name in planned
    }
    missing = sorted(set(sources) - set(planned))
    if missing:
        raise CheckpointError(
            f"tensor {missing[0]} of the source was not planned ({len(missing)} in all); this is a bug."
        )
    return verify(written, job.metadata, expected, workers, lambda done, total: progress("verify", done, total))
