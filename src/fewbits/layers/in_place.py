"""`fewbits.quantize` of a torch module: its matrices give way to packed ones where they stand, all of them or none."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fewbits import kernels, planning
from fewbits.assignment import Assignment, assign
from fewbits.checkpoints.base import Placement, StoredTensor
from fewbits.checkpoints.imatrix import Importance, read_importance
from fewbits.choosing import choose, require_legal
from fewbits.errors import CalibrationError
from fewbits.layers.encoding import Claim, packed_matrix, verify_packed
from fewbits.layers.finding import Found, Network, find
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.multiplying import multiplying
from fewbits.layers.places import pack
from fewbits.layers.products import WIDE
from fewbits.memory import PeakMemory, resident_memory
from fewbits.planning import Recipe
from fewbits.preflight import estimate_memory, estimate_seconds
from fewbits.reporting.record import PlannedTensor, Preview, Record, TensorResult
from fewbits.request import Progress, silent
from fewbits.versions import versions
from fewbits.way import Way
from fewbits.workers import Workers, one_torch_thread, usable_threads


class InPlace:
    """A network in memory as a kind of output: it holds every format, and its linear modules round their inputs."""

    def refuses(self, format_name: str) -> str | None:
        """Fields hold every format."""
        return None

    def refuses_inputs(self, what: str) -> str | None:
        """Modules that multiply round as they are told; of the others `multiplying` says it."""
        return None

    def plain_format(self, placement: Placement) -> str:
        """As it is."""
        return placement.source.format

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """Any matrix may be in any format."""
        return None


def quantize_module(
    network: torch.nn.Module,
    recipe: str | Path = "Q4_K_M",
    *,
    tensors: Mapping[str, str] | Iterable[str] = (),
    importance: str | Path | None = None,
    method: str | None = None,
    dry_run: bool = False,
    threads: int | None = None,
    seed: int = 0,
    on_preview: Callable[[Preview], None] | None = None,
    progress: Progress | None = None,
) -> Record | Preview:
    """Quantize Linear, Conv1d, Conv2d, Embedding, LSTM, GRU and Conv1D modules of `network` where they stand, verified.

    Options are those of `fewbits.quantize`; `tensors` may name modules of the network ("model.layers.*.mlp.*"). Weights
    that are tied stay tied. Raises FewbitsError and leaves the network as it was.

    >>> network = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> record = quantize_module(network, "int8_row_sym")
    >>> [type(module).__module__ for module in network][::2], record.preview.bytes_out
    (['fewbits.layers.modules', 'fewbits.layers.modules'], 568)
    """
    started = time.perf_counter()
    asked = planning.get(recipe)
    way = way_in_memory(asked, method, seed)
    found = find(network)
    own = dict(_pair(each) for each in tensors) if not isinstance(tensors, Mapping) else tensors
    asked = asked.with_overrides(planning.parse_overrides(found.patterns(own)))
    weigher = read_importance(Path(importance)) if importance is not None else None
    assignment = multiplying(found, assign(found.conversion(), asked, way.method, weigher, InPlace()))
    require_legal(way, asked, assignment.tensors, InPlace().refuses_inputs)
    preview = _preview(network, found, asked, assignment, usable_threads(threads))
    if on_preview:
        on_preview(preview)
    if dry_run:
        return preview
    with Workers(usable_threads(threads)) as workers, PeakMemory() as memory, one_torch_thread():
        work = _Work(found, preview, assignment.importance, workers, progress or silent)
        results, digest, verifying = work.done()
        return Record(
            preview=preview,
            tensors=results,
            source_sha256={},
            output_sha256=digest,
            seed=seed,
            seconds=time.perf_counter() - started,
            seconds_verifying=verifying,
            peak_memory=memory.peak,
            versions=versions(),
            isa=kernels.isa(),
            threads=workers.threads,
            card="",
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def _pair(override: str) -> tuple[str, str]:
    """PATTERN=FORMAT in two; what is no such thing is refused by whoever reads overrides."""
    pattern, _, format_name = override.rpartition("=")
    return pattern, format_name


def way_in_memory(recipe: Recipe, method: str | None, seed: int) -> Way:
    """How codes are chosen of a network in memory; raises CalibrationError where that takes text."""
    chosen = choose(recipe, method, text=False, seed=seed)
    if chosen.reads_text or chosen.rotation:
        raise CalibrationError(
            f"the method {chosen.name} walks a model on disk layer by layer; save the module with save_pretrained and "
            "quantize the directory, or take nearest, search or hqq."
        )
    return chosen


def _preview(network: torch.nn.Module, found: Network, recipe: Recipe, assignment: Assignment, threads: int) -> Preview:
    tensors = assignment.tensors
    others = f" and {len(found.left) - 1} more" if len(found.left) > 1 else ""
    left = [f"{name}{others} stays as it is: it is no weight of a module that is quantized." for name in found.left[:1]]
    return Preview(
        source=type(network).__name__,
        output="where it stands",
        recipe=recipe.name,
        nominal_format=recipe.nominal,
        architecture=found.architecture or type(network).__name__,
        tensors=tensors,
        notes=(*assignment.notes, *left),
        bytes_in=sum(t.bytes_in for t in tensors),
        bytes_out=sum(t.bytes_out for t in tensors),
        seconds_estimated=estimate_seconds(tensors, (), threads),
        memory_estimated=resident_memory() + estimate_memory(threads) + sum(t.bytes_out for t in tensors),
        recipe_file=recipe.source or None,
        overrides=recipe.overrides,
        importance=assignment.used,
    )


@dataclass(frozen=True)
class _Work:
    """What comes after the preview."""

    network: Network
    preview: Preview
    importance: Mapping[str, Importance]
    workers: Workers
    progress: Progress

    def done(self) -> tuple[tuple[TensorResult, ...], str, float]:
        """Encode, verify, and only then put the packed matrices in their places."""
        results, packed = [], {}
        total, done = self.preview.bytes_in, 0
        digest = hashlib.sha256()
        for found, planned in zip(self.network.found, self.preview.tensors, strict=True):
            if planned.format != planned.source_format:
                matrix, error = self._packed(found.source(), planned)
                packed[found.name] = matrix
                for field in matrix.stored().values():
                    digest.update(np.ascontiguousarray(field).data)
                results.append(TensorResult(planned, error))
            else:
                results.append(TensorResult(planned, 0.0))
            done += planned.bytes_in
            self.progress("quantize", done, total)
        verifying = time.perf_counter()
        self._verify(packed, results)
        inputs = {t.name: t.activation or WIDE for t in self.preview.tensors}
        for found in self.network.found:
            for module in found.modules if found.name in packed else ():
                pack(module, found.parameter, packed[found.name], inputs[found.name])
        return tuple(results), digest.hexdigest(), time.perf_counter() - verifying

    def _packed(self, source: StoredTensor, planned: PlannedTensor) -> tuple[PackedMatrix, float]:
        return packed_matrix(source, planned, self.importance.get(planned.name), self.workers)

    def _verify(self, packed: Mapping[str, PackedMatrix], results: list[TensorResult]) -> None:
        """Read every matrix by code of its own and compare it with the weight that still stands."""
        sources: dict[str, Found] = {found.name: found for found in self.network.found}
        errors = {result.planned.name: result.relative_rms for result in results}
        claims = {name: Claim(each, sources[name].source(), errors[name]) for name, each in packed.items()}
        verify_packed(claims, self.workers, partial(self.progress, "verify"))
