"""Checkpoint in, checkpoint out: the one file that meets formats, methods and containers, through their protocols.

Preflight decides everything and writes nothing; then tensors stream through in slabs of rows; then the file is verified
under its temporary name, and only then does it appear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits import formats, kernels, methods, planning
from fewbits.assignment import Assignment, assign, with_outliers
from fewbits.checkpoints.base import Conversion, Placement, StoredTensor
from fewbits.checkpoints.dialects import OWN
from fewbits.checkpoints.imatrix import Importance, read_importance
from fewbits.checkpoints.opening import open_source
from fewbits.choosing import choose, require_legal
from fewbits.digest import Digests, OutputDigest
from fewbits.encoding import Encoded, encode_slab, is_native, require_representable, shared_parameters, slabs
from fewbits.errors import CalibrationError, CheckpointError, RecipeError
from fewbits.formats import Params
from fewbits.fused import is_fused, put_together
from fewbits.hub.locating import Located, locate
from fewbits.memory import PeakMemory, resident_memory
from fewbits.methods import Method
from fewbits.onnx_target import require_same_container, require_weights_only
from fewbits.planning import Recipe
from fewbits.preflight import estimate_memory, estimate_seconds, require_room, require_writable
from fewbits.reporting.card import card_path, publish_with_card
from fewbits.reporting.record import PlannedTensor, Preview, Record, TensorResult
from fewbits.request import Request
from fewbits.rotating import Rotating, rotating
from fewbits.targets import Prepared, Target, Writer, target_of
from fewbits.verification.matrices import Allowance, relative_rms
from fewbits.versions import versions
from fewbits.way import Way
from fewbits.workers import Workers, one_torch_thread

if TYPE_CHECKING:
    from fewbits.calibrated.session import Session, Solved


def run(
    request: Request, workers: Workers, digests: Digests, on_preview: Callable[[Preview], None] | None
) -> Record | Preview:
    """Do what `fewbits.quantize` promises, with `workers`; some of `digests` may have begun."""
    overrides = planning.parse_overrides(request.tensors)
    recipe = planning.get(request.recipe).with_overrides(overrides)
    chosen = _way(request, recipe)
    _require_same_columns(request, chosen)
    target = _target(request, recipe, chosen)
    recipe, renamed = recipe.renamed(target.own_formats)
    target.require_room_for(request.output, force=request.force, dry_run=request.dry_run)
    if kept := request.calibration.importance:
        require_writable(kept, kept, force=request.force, dry_run=request.dry_run)
    weigher = read_importance(request.importance) if request.importance is not None else None
    coming = partial(request.progress, "download")
    located = locate(request.source, revision=request.revision, pickles=request.pickles, progress=coming)
    conversion = target.accept(_open(request, located, target))
    require_weights_only(conversion, chosen.name, walks=chosen.reads_text or chosen.rotation is not None)
    turning = rotating(conversion, chosen.rotation) if chosen.rotation else None
    conversion = turning.conversion if turning else conversion
    files = [*conversion.files, *(Path(file) for file in _named_files(request, recipe) if file)]
    if not request.dry_run:
        for file in files:
            digests.begin(file)
    assignment = assign(conversion, recipe, chosen.method, weigher, target, measured=chosen.reads_text)
    require_legal(chosen, recipe, assignment.tensors, target.refuses_inputs)
    calibration = _calibration(request, conversion, chosen)
    if turning:
        assignment = replace(assignment, tensors=tuple(map(turning.planned, assignment.tensors)))
    if calibration:
        assignment = replace(assignment, tensors=calibration.with_methods(assignment.tensors))
    job = _plan(request, target, conversion, recipe, assignment, calibration, turning, workers.threads)
    notes = (*located.notes, *renamed, *job.preview.notes)
    job = replace(job, preview=replace(job.preview, notes=notes, hub=located.hub, push=request.push))
    if on_preview:
        on_preview(job.preview)
    if request.dry_run:
        return job.preview
    require_room(request.output, job.prepared.size, turning.bytes if turning else 0)
    return _work(request, job, chosen.method, workers, lambda: digests.of(files))


def _target(request: Request, recipe: Recipe, chosen: Way) -> Target:
    """The kind of output; columns in 16 bits beside codes are what only our own dialect can say."""
    if chosen.split is None:
        return target_of(request.output, request.split_size, dialect=request.dialect, usual=recipe.dialect)
    if request.dialect not in (None, OWN):
        raise RecipeError(
            f"the method {chosen.name} keeps columns in 16 bits, which the dialect {request.dialect} cannot say; take "
            f"--dialect {OWN}, or a method without outliers."
        )
    return target_of(request.output, request.split_size, dialect=request.dialect)


def _named_files(request: Request, recipe: Recipe) -> tuple[str | Path | None, ...]:
    """Files beside the source on which the result depends."""
    return recipe.source, request.importance, request.architecture


def _way(request: Request, recipe: Recipe) -> Way:
    """What was asked for, or the best that the calibration text allows; refuses text for a method that reads none."""
    texts = request.calibration
    chosen = choose(recipe, request.method, text=texts.text is not None, seed=request.seed)
    given = [option for option, value in texts.options().items() if value is not None]
    if given and not chosen.reads_text:
        raise CalibrationError(
            f"the method {chosen.name} looks at no calibration text; leave {' and '.join(given)} out, or take "
            "--method gptq."
        )
    return chosen


def _require_same_columns(request: Request, chosen: Way) -> None:
    if request.importance is not None and chosen.rotation:
        raise CalibrationError(
            f"{request.importance} was measured on columns that {chosen.rotation.name} turns into others; leave "
            f"--importance out, or take {chosen.rotation.name}+gptq, which measures behind the rotation."
        )


def _calibration(request: Request, conversion: Conversion, chosen: Way) -> Session | None:
    """How the model will be walked; None for a way that looks at weights alone, and then nothing of it is loaded."""
    if not chosen.reads_text:
        return None
    from fewbits.calibrated.session import Session

    return Session.open(conversion, chosen, request.calibration, request.seed)


def _work(
    request: Request, job: _Job, method: Method, workers: Workers, source_sha256: Callable[[], dict[str, str]]
) -> Record:
    """Everything after the preview."""
    began = datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - request.started)
    with PeakMemory() as memory, ExitStack() as stack:
        job = _rotated(request, job, workers, stack)
        walk = partial(request.progress, "calibrate")
        tensors = job.preview.tensors
        solved = job.calibration.solve(request.output, tensors, workers, stack, walk) if job.calibration else None
        if solved:
            job = _with_outliers(job, solved)
            require_room(request.output, job.prepared.size)
        writer = stack.enter_context(job.prepared.open(request.output))
        outcome = _run(request, job, method, writer, workers, solved)
        record = Record(
            preview=job.preview,
            tensors=outcome.tensors,
            source_sha256=source_sha256(),
            output_sha256=outcome.digest.whole,
            parts_sha256=dict(zip(job.preview.parts, outcome.digest.parts or (outcome.digest.whole,), strict=False)),
            seed=request.seed,
            seconds=time.perf_counter() - request.started,
            seconds_verifying=outcome.seconds_verifying,
            peak_memory=memory.peak,
            versions=versions(),
            isa=kernels.isa(),
            threads=workers.threads,
            card=str(card_path(request.output)),
            started=began.isoformat(timespec="seconds"),
            calibration=solved.judged() if solved else None,
        )
        publish_with_card(record, writer.publish)
        if solved:
            if request.calibration.importance is not None:
                solved.write_importance(request.calibration.importance)
            solved.remove()
    return record


def _rotated(request: Request, job: _Job, workers: Workers, stack: ExitStack) -> _Job:
    """The job with the rotated source in place of the source, where it is to be rotated."""
    if job.rotating is None:
        return job
    made = job.rotating.placements(request.output, workers, partial(request.progress, "rotate"))
    placements = stack.enter_context(made)
    calibration = job.calibration.over(placements) if job.calibration else None
    conversion = replace(job.conversion, placements=tuple(placements.values()))
    return replace(job, conversion=conversion, calibration=calibration)


def _with_outliers(job: _Job, solved: Solved) -> _Job:
    """The job with the columns that stay in 16 bits, which nobody knew before the text was read."""
    counts = {t.name: solved.outliers(t.name) for t in job.preview.tensors}
    if not any(counts.values()):
        return job
    tensors = tuple(with_outliers(t, counts[t.name]) for t in job.preview.tensors)
    prepared = job.prepare(tensors)
    preview = replace(job.preview, tensors=tensors, bytes_out=prepared.size)
    return replace(job, prepared=prepared, preview=preview)


@dataclass(frozen=True)
class _Job:
    """Everything decided before any weight is read."""

    conversion: Conversion
    prepare: Callable[[Sequence[PlannedTensor]], Prepared]
    prepared: Prepared
    preview: Preview
    importance: Mapping[str, Importance]
    calibration: Session | None
    rotating: Rotating | None


@dataclass(frozen=True)
class _Outcome:
    tensors: tuple[TensorResult, ...]
    digest: OutputDigest
    seconds_verifying: float


def _open(request: Request, located: Located, target: Target) -> Conversion:
    require_same_container(located.path, request.output)
    conversion = open_source(located.path, name=located.name, pickles=request.pickles)
    if any(target.overwrites(request.output, file) for file in conversion.files):
        raise CheckpointError(f"{request.output} is the source itself; choose another output.")
    return conversion


def _plan(
    request: Request,
    target: Target,
    conversion: Conversion,
    recipe: Recipe,
    assignment: Assignment,
    calibration: Session | None,
    turning: Rotating | None,
    threads: int,
) -> _Job:
    tensors = assignment.tensors
    walk = (calibration.seconds(threads), calibration.memory(threads)) if calibration else (0.0, 0)
    prepare = partial(target.prepare, conversion, recipe=recipe, used=assignment.used)
    prepared = prepare(tensors)
    preview = Preview(
        source=request.source,
        output=str(request.output),
        recipe=recipe.name,
        nominal_format=recipe.nominal,
        architecture=conversion.architecture,
        tensors=tensors,
        notes=(*conversion.notes, *assignment.notes, *prepared.notes, *(calibration.notes if calibration else ())),
        bytes_in=sum(t.bytes_in for t in tensors) + conversion.carried,
        bytes_out=prepared.size,
        seconds_estimated=estimate_seconds(tensors, conversion.files, threads)
        + walk[0]
        + (turning.seconds(threads) if turning else 0.0),
        memory_estimated=resident_memory() + max(estimate_memory(threads), walk[1]),
        recipe_file=recipe.source or None,
        overrides=recipe.overrides,
        importance=assignment.used,
        calibration=calibration.used if calibration else None,
        rotation=turning.used if turning else None,
        parts=tuple(path.name for path in prepared.parts(request.output)),
    )
    return _Job(conversion, prepare, prepared, preview, assignment.importance, calibration, turning)


def _run(
    request: Request, job: _Job, method: Method, writer: Writer, workers: Workers, solved: Solved | None
) -> _Outcome:
    """Encode, write, verify, and wait for the disk."""
    tensors = _encode_all(job, method, writer, workers, solved, partial(request.progress, "quantize"))
    writer.start_flush()
    verifying = time.perf_counter()
    allowances = dict.fromkeys(job.importance, Allowance("weighed")) | (solved.allowances() if solved else {})
    turned_by = job.preview.rotation.seed if job.preview.rotation else None
    digest = job.prepared.verify(
        request.output, tensors, allowances, workers, partial(request.progress, "verify"), turned_by
    )
    seconds = time.perf_counter() - verifying
    writer.sync()
    return _Outcome(tensors, digest, seconds)


def _encode_all(
    job: _Job,
    method: Method,
    writer: Writer,
    workers: Workers,
    solved: Solved | None,
    progress: Callable[[int, int], None],
) -> tuple[TensorResult, ...]:
    planned = {t.name: t for t in job.preview.tensors}
    placements = {p.name: p for p in job.conversion.placements}
    held = {name for name in planned if solved and name in solved}
    work = chain.from_iterable(_pieces(job, planned[name], placements[name], name in held) for name in planned)

    def encode(piece: _Piece) -> Encoded:
        tensor = piece.tensor
        if solved and tensor.name in solved:
            encoded = solved.encoded(tensor, piece.placement)
        else:
            encoded = _encode(job, method, piece)
        writer.write_fields(job.prepared.name_of(tensor), piece.start, encoded.part(piece.start))
        return replace(encoded, fields={})

    errors: dict[str, list[kernels.Doubles]] = {name: [] for name in planned}
    squares: dict[str, list[kernels.Doubles]] = {name: [] for name in planned}
    done, total = 0, sum(p.source.bytes for p in placements.values())
    with _torch_beside_workers(job, method):
        for piece, encoded in workers.in_order(encode, work):
            require_representable(piece.placement.source, piece.tensor, encoded)
            errors[piece.tensor.name].append(encoded.squared_error)
            squares[piece.tensor.name].append(encoded.squared)
            done += piece.placement.source.row_bytes * (piece.stop - piece.start)
            progress(done, total)
    return tuple(_result(t, relative_rms(errors[t.name], squares[t.name]), solved) for t in planned.values())


def _encode(job: _Job, method: Method, piece: _Piece) -> Encoded:
    tensor, source = piece.tensor, piece.placement.source
    weights = job.importance.get(tensor.name)
    row = weights.row(piece.start * weights.matrices // source.rows) if weights else None
    slab = piece.placement.slab(piece.start, piece.stop)
    # What calibration leaves alone (what is looked up, not multiplied with) is rounded to nearest.
    own = methods.get(tensor.method) if tensor.quantizable else method
    return encode_slab(own, tensor, source.format, slab, row, piece.shared)


def _result(planned: PlannedTensor, error: float, solved: Solved | None) -> TensorResult:
    return solved.result(planned, error) if solved and planned.name in solved else TensorResult(planned, error)


@dataclass(frozen=True)
class _Piece:
    """Rows `start` to `stop` of one tensor, with their part of what its rows share."""

    tensor: PlannedTensor
    placement: Placement
    start: int
    stop: int
    shared: Params | None


def _pieces(job: _Job, tensor: PlannedTensor, placement: Placement, whole: bool) -> Iterator[_Piece]:
    if whole:
        yield _Piece(tensor, placement, 0, placement.source.rows, None)
        return
    format = formats.get(tensor.format)
    # Rows of another order would be cut elsewhere; no container wants both an order and tiles.
    shared = shared_parameters(format, *_sharing(job, tensor, placement))
    for start, stop in slabs(placement.source, format, job.importance.get(tensor.name)):
        yield _Piece(tensor, placement, start, stop, shared.slice(start, stop) if shared else None)


def _sharing(job: _Job, tensor: PlannedTensor, placement: Placement) -> list[StoredTensor]:
    """The source of a tensor, and those of the tensors that it has to share parameters with."""
    if not is_fused(formats.get(tensor.format)):
        return [placement.source]
    alike = {t.name for t in job.preview.tensors if t.format == tensor.format}
    together = put_together(tensor.name, alike)
    return [each.source for each in job.conversion.placements if each.name in together]


@contextmanager
def _torch_beside_workers(job: _Job, method: Method) -> Iterator[None]:
    """One thread for torch while several workers call it: more of them would only wait for each other."""
    if job.calibration is None and all(is_native(method, t) for t in job.preview.tensors):
        yield
        return
    with one_torch_thread():
        yield
