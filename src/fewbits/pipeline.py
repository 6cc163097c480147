"""Checkpoint in, checkpoint out: the one file that meets formats, methods and containers, through their protocols.

Preflight decides everything and writes nothing; then tensors stream through in slabs of rows; then the file is verified
under its temporary name, and only then does it appear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import numpy as np

from fewbits import formats, kernels, methods, planning
from fewbits.checkpoints.base import Bytes, Conversion, Placement, Value
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_writer import GGUFWriter, Layout, partial_path, plan_layout
from fewbits.checkpoints.opening import open_source
from fewbits.digest import sha256_of
from fewbits.errors import CheckpointError
from fewbits.memory import PeakMemory, resident_memory
from fewbits.methods import Method
from fewbits.models import architectures
from fewbits.planning import Recipe
from fewbits.preflight import estimate_memory, estimate_seconds, require_room, require_writable, usable_threads
from fewbits.reporting.card import card_path, discard_card, publish_card, stage_card
from fewbits.reporting.record import PlannedTensor, Preview, Record, TensorResult
from fewbits.sites import Site, find_sites
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
    to: str = "Q4_K_M",
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

    Returns the record that was also written beside `output` as a card, or the preview when `dry_run`. `threads` None
    means all processors. Raises FewbitsError, one sentence, and leaves nothing at `output` when anything fails.
    """
    started = time.perf_counter()
    output = Path(output)
    workers_wanted = usable_threads(threads)
    recipe, chosen = planning.get(to), methods.get(method)
    require_writable(output, card_path(output), force=force, dry_run=dry_run)
    conversion = _open(str(source), output, revision)
    with Workers(workers_wanted) as workers:
        # Hashing begins while the rest is planned: it is a quarter of the work, and one thread is free.
        files = () if dry_run else conversion.files
        digests = {str(f): workers.submit(partial(sha256_of, f, workers.cancelled)) for f in files}
        job = _plan(conversion, str(source), output, recipe, chosen, workers_wanted)
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


def _plan(conversion: Conversion, source: str, output: Path, recipe: Recipe, method: Method, threads: int) -> _Job:
    sites = find_sites(conversion)
    tensors = tuple(_plan_tensor(p, sites[p.name], recipe, method) for p in conversion.placements)
    metadata = {**conversion.metadata, **_file_metadata(recipe)}
    rows = [(t.name, t.format, t.shape, t.bytes_out) for t in tensors]
    layout = plan_layout(conversion.architecture, metadata, rows)
    preview = Preview(
        source=source,
        output=str(output),
        recipe=recipe.name,
        nominal_format=recipe.nominal,
        architecture=conversion.architecture,
        tensors=tensors,
        notes=(*conversion.notes, *_rule_notes(conversion)),
        bytes_in=sum(t.bytes_in for t in tensors),
        bytes_out=layout.size,
        seconds_estimated=estimate_seconds(tensors, conversion.files, threads),
        memory_estimated=resident_memory() + estimate_memory(threads),
    )
    return _Job(output, conversion, metadata, layout, preview)


def _rule_notes(conversion: Conversion) -> tuple[str, ...]:
    """Architectures for which the recipes' rules are not known to be llama.cpp's."""
    experts = conversion.metadata.get(f"{conversion.architecture}.expert_count")
    known = conversion.architecture in {a.gguf for a in architectures()}
    if known and experts is None:
        return ()
    kind = "models with experts" if known else f"architecture '{conversion.architecture}'"
    return (f"For {kind} llama.cpp may choose other types for some tensors than this recipe's rules do.",)


def _plan_tensor(placement: Placement, site: Site, recipe: Recipe, method: Method) -> PlannedTensor:
    stored = placement.source
    quantizable = site.kind != "kept"
    if quantizable:
        decision = recipe.decide(site)
        format_name, fallback = decision.format, decision.fallback
    else:
        # Norms and biases are read in float32 by every runtime; what a GGUF source stores is already what it wants.
        format_name, fallback = ("F32" if len(stored.shape) < 2 or placement.computed else stored.format), None
    row_bytes = formats.row_bytes(formats.get(format_name), stored.cols)
    return PlannedTensor(
        name=placement.name,
        source_name=stored.name,
        shape=stored.shape,
        source_format=stored.format,
        format=format_name,
        method=method.name if quantizable else "kept",
        nominal=format_name == recipe.nominal,
        quantizable=quantizable,
        fallback=fallback,
        bytes_in=stored.buffer.size,
        bytes_out=stored.rows * row_bytes,
    )


def _file_metadata(recipe: Recipe) -> dict[str, Value]:
    from gguf import LlamaFileType

    return {
        "general.file_type": Value(int(LlamaFileType[recipe.file_type]), "uint32"),
        "general.quantization_version": Value(QUANTIZATION_VERSION, "uint32"),
    }


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
        for name, t in planned.items()
        for start, stop in row_slabs(placements[name].source.rows, placements[name].source.row_bytes)
    ]

    def encode(item: tuple[str, int, int]) -> kernels.Encoded:
        name, start, stop = item
        placement = placements[name]
        encoded = encode_slab(method, planned[name], placement.source.format, placement.slab(start, stop))
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


def encode_slab(method: Method, tensor: PlannedTensor, numbers: str, slab: Bytes) -> kernels.Encoded:
    """Encode `slab` (rows, bytes of `numbers`) of `tensor`: natively where that is all the method does."""
    format = formats.get(tensor.format)
    cols = slab.shape[1] // kernels.NUMBERS[numbers]
    row_bytes = formats.row_bytes(format, cols)
    if format.name in kernels.formats() and (method.codec_is_enough or not tensor.quantizable):
        return kernels.encode_rows(format.name, slab, numbers, row_bytes)
    import torch

    w = torch.from_numpy(kernels.decode_rows(numbers, slab, cols))
    q = method.solve(w, format, {})
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
        name: Expectation(source, order, planned[name].planned.format, planned[name].relative_rms)
        for name, (source, order) in {**sources, **computed}.items()
        if name in planned
    }
    missing = sorted(set(sources) - set(planned))
    if missing:
        raise CheckpointError(
            f"tensor {missing[0]} of the source was not planned ({len(missing)} in all); this is a bug."
        )
    return verify(written, job.metadata, expected, workers, lambda done, total: progress("verify", done, total))
