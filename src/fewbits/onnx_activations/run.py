"""An ONNX graph in, one whose products run on whole numbers out: checked, previewed, calibrated, written, verified."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewbits import kernels
from fewbits.checkpoints.onnx.dialects import get
from fewbits.checkpoints.onnx.dialects.base import as_bytes
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.layout import OnnxLayout, data_path, plan_layout
from fewbits.checkpoints.onnx.rewriting import NewTensor
from fewbits.checkpoints.onnx.source import is_onnx
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.checkpoints.partial_file import partial_path
from fewbits.digest import Digests, OutputDigest
from fewbits.errors import CheckpointError
from fewbits.memory import PeakMemory
from fewbits.onnx_activations.asking import DYNAMIC, STATIC, Asked
from fewbits.onnx_activations.dynamic_way import DynamicWay
from fewbits.onnx_activations.graph import Graph
from fewbits.onnx_activations.preview import preview_of
from fewbits.onnx_activations.source import Source, open_graph_source
from fewbits.onnx_activations.static_way import StaticWay
from fewbits.onnx_activations.way import Rounded, RoundingWay
from fewbits.preflight import require_room, require_writable
from fewbits.reporting.card import card_path, publish_with_card
from fewbits.reporting.record import Preview, Record
from fewbits.request import Request
from fewbits.verification.onnx_activations import verify_graph
from fewbits.versions import versions
from fewbits.workers import Workers


def run_graph(
    request: Request, workers: Workers, digests: Digests, on_preview: Callable[[Preview], None] | None
) -> Record | Preview:
    """Do what `fewbits.quantize` promises for a graph whose values are rounded; raises FewbitsError."""
    asked = Asked.of(request)
    _require_output(request)
    source = open_graph_source(Path(request.source).expanduser(), asked)
    way: RoundingWay = _WAYS[asked.way](source, asked, request, workers.threads)
    files = list(source.file.files)
    if request.output.resolve() in {each.resolve() for each in files}:
        raise CheckpointError(f"{request.output} is the source itself; choose another output.")
    planned = way.planned()
    size = _laid_out(source.file, planned.graph, request.output)[1]
    preview = preview_of(request, source, way, planned, size)
    if on_preview:
        on_preview(preview)
    if request.dry_run:
        return preview
    for each in files:
        digests.begin(each)
    require_room(request.output, size)
    return _work(request, _Job(source, way, preview), workers, lambda: digests.of(files))


_WAYS: dict[str, Callable[[Source, Asked, Request, int], RoundingWay]] = {
    STATIC: StaticWay.of,
    DYNAMIC: DynamicWay.of,
}


@dataclass(frozen=True)
class _Job:
    source: Source
    way: RoundingWay
    preview: Preview


def _require_output(request: Request) -> None:
    """Refuse outputs that are no graphs, or may not be replaced."""
    if not is_onnx(request.output):
        raise CheckpointError(
            f"{request.source} is an ONNX graph, and of one only an ONNX file can be made; give an output that ends in "
            ".onnx."
        )
    for path in (data_path(request.output), request.output):
        require_writable(path, card_path(request.output), force=request.force, dry_run=request.dry_run)


def _laid_out(file: OnnxFile, graph: Graph, output: Path) -> tuple[OnnxLayout, int]:
    """Where everything of `graph` goes, and how many bytes that is."""
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    new = [NewTensor(each.name, "", each) for each in model.graph.initializer if each.name in graph.arrays]
    layout = plan_layout(file, model, new, output)
    return layout, layout.graph_bytes + layout.data_bytes


def _work(request: Request, job: _Job, workers: Workers, source_sha256: Callable[[], dict[str, str]]) -> Record:
    """Everything after the preview."""
    began = datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - request.started)
    with PeakMemory() as memory, ExitStack() as stack:
        rounded = job.way.round(request.progress)
        layout, size = _laid_out(job.source.file, rounded.graph, request.output)
        writer = stack.enter_context(OnnxWriter(request.output, layout, get("qdq"), {}))
        for name, array in rounded.graph.arrays.items():
            writer.write_tensor(name, as_bytes(np.asarray(array)))
        writer.start_flush()
        verifying = time.perf_counter()
        digest = _verified(request, job, rounded, workers)
        outputs = job.way.judge(request.output, request.progress)
        seconds_verifying = time.perf_counter() - verifying
        writer.sync()
        names = (request.output.name, data_path(request.output).name) if layout.data_bytes else ()
        preview = replace(
            job.preview, tensors=tuple(each.planned for each in rounded.tensors), bytes_out=size, parts=names
        )
        record = Record(
            preview=preview,
            tensors=rounded.tensors,
            source_sha256=source_sha256(),
            output_sha256=digest.whole,
            parts_sha256=dict(zip(names, digest.parts, strict=True)),
            seed=request.seed,
            seconds=time.perf_counter() - request.started,
            seconds_verifying=seconds_verifying,
            peak_memory=memory.peak,
            versions=versions() | job.way.versions(),
            isa=kernels.isa(),
            threads=workers.threads,
            card=str(card_path(request.output)),
            started=began.isoformat(timespec="seconds"),
            graph=replace(rounded.told, outputs=outputs),
        )
        publish_with_card(record, writer.publish)
    return record


def _verified(request: Request, job: _Job, rounded: Rounded, workers: Workers) -> OutputDigest:
    """The source is opened again, so that nothing that was done to it here is taken for granted."""
    written = (partial_path(request.output), partial_path(data_path(request.output)))
    told: Any = partial(request.progress, "verify")
    return verify_graph(written, OnnxFile(job.source.file.path), rounded.stated, workers, told)
