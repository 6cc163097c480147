"""Scales that are fixed before: observed on samples, products that cost too much left in floats, the rest rounded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np

from fewbits.checkpoints.partial_file import partial_path
from fewbits.onnx_activations.asking import STATIC, Asked
from fewbits.onnx_activations.judging import Distance
from fewbits.onnx_activations.observing import Steps
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.plan import Plan, Stays, make_plan
from fewbits.onnx_activations.runtime import Running, require_runtime
from fewbits.onnx_activations.samples import Samples, read_samples, wanted_inputs
from fewbits.onnx_activations.sensitivity import TOLERANCE, worst_of
from fewbits.onnx_activations.smoothing import SMOOTHED, Smoothing
from fewbits.onnx_activations.source import Source, float_operators, format_of
from fewbits.onnx_activations.static import insert
from fewbits.onnx_activations.stored import empty_weight, matrix_shape, planned_tensor, result_of
from fewbits.onnx_activations.stored_only import (
    empty_stored,
    encode_stored,
    insert_stored,
    planned_stored,
    results_stored,
)
from fewbits.onnx_activations.trying import TRIED, Trial, Tried
from fewbits.onnx_activations.way import Planned, Progress, Rounded
from fewbits.reporting.graph_record import (
    FloatNode,
    GraphRounding,
    IntegerProduct,
    OutputError,
    RoundedValue,
    SmoothedValue,
)
from fewbits.reporting.record import PlannedTensor
from fewbits.request import Request
from fewbits.verification.onnx_activations import Stated

_WAIT = 3.0
"""How much longer a run takes whose values are all looked at, about."""


@dataclass(frozen=True)
class StaticWay:
    """Static rounding of one graph."""

    source: Source
    asked: Asked
    samples: Samples
    threads: int
    seconds_per_batch: float

    @staticmethod
    def of(source: Source, asked: Asked, request: Request, threads: int) -> StaticWay:
        """Inputs are read and one batch is run, so that what does not fit is refused before the preview."""
        samples = read_samples(request.calibration.text, wanted_inputs(source.file.model))
        running = Running.of(source.file.path, source.file.path.parent, threads)
        _, first = next(samples.batches())
        running.run(first)
        began = time.perf_counter()
        running.run(first)
        return StaticWay(source, asked, samples, threads, time.perf_counter() - began)

    def formats(self) -> dict[str, str]:
        """Constant -> its format."""
        return {each.weight: format_of(self.asked, each) for each in self.source.plan.products if each.weight}

    def planned(self) -> Planned:
        """All that can be computed with whole numbers; which of it costs too much is not known yet."""
        plan, graph = self.source.plan, self.source.graph.copy()
        steps = dict.fromkeys(plan.roots, Steps(0.0, 1.0, np.float32(1.0), 0))
        formats, facts = self.formats(), self.source.facts
        weights = {e.weight: empty_weight(facts.dims(e.weight), e.axis, formats[e.weight]) for e in _weighted(plan)}
        insert(graph, plan, steps, weights)
        insert_stored(graph, self.source.stored, empty_stored(self.source.stored), dynamic=False)
        batches = -(-self.samples.count // self.samples.batch)
        return Planned(
            graph,
            (*(self._tensor(each, None) for each in _weighted(plan)), *planned_stored(self.source.stored)),
            tuple(map(_float, plan.stays)),
            self._notes(),
            self.seconds_per_batch * (2 * _WAIT * batches + 3 * len(plan.products) * TRIED),
            3 * sum(each.stat().st_size for each in self.source.file.files),
        )

    def _notes(self) -> tuple[str, ...]:
        samples, plan = self.samples, self.source.plan
        ranges = (
            f"Ranges of {len(plan.roots)} values come from {samples.count - samples.held_out} samples of "
            f"{samples.source} ({self.asked.observer}); {samples.held_out} more judge the result."
        )
        tried = (
            f"{len(plan.products)} products are tried one by one. Where they cost too much together, what the worst of "
            "them read is divided column by column, if that is cheaper; what still costs too much stays in floats."
        )
        return ranges, tried

    def round(self, progress: Progress) -> Rounded:
        """Observe, try, divide, leave out, insert."""
        tried = Trial(self.asked, self.samples, self.threads, progress).of(self.source)
        return replace(self, source=tried.source)._rounded(tried)

    def _rounded(self, tried: Tried) -> Rounded:
        source, plan, steps, weights, errors = self.source, self.source.plan, tried.steps, tried.weights, tried.errors
        worst = worst_of(errors)
        kept = {each.output: each.why for each in plan.stays} | {
            output: f"rounding it alone costs {error:.1e} of the outputs' square" for output, error in worst.items()
        }
        final = make_plan(source.facts, kept)
        stored = _stored_only(plan, final, worst)
        used = {each.weight for each in final.products} | set(stored.values())
        graph = source.graph.copy()
        # Ranges were measured for more values than are rounded now; those that are left have the same ones.
        kept_codes = {name: weight for name, weight in weights.items() if name in used}
        insert(graph, final, _with_roots(final, plan, steps), kept_codes, stored)
        held = encode_stored(source.facts, source.stored)
        insert_stored(graph, source.stored, held, dynamic=False)
        tensors = tuple(
            result_of(self._tensor(each, None if each.weight in used else kept[each.output]), weights[each.weight])
            for each in _weighted(plan)
        )
        tensors += results_stored(source.stored, held)
        told = replace(self._told(final, plan, steps, errors), smoothed=_smoothed(tried))
        return Rounded(graph, tensors, told, self._stated(final, plan, steps, stored, tried.smoothed))

    def _tensor(self, operation: Operation, kept: str | None) -> PlannedTensor:
        shape = matrix_shape(self.source.facts.dims(operation.weight), operation.axis)
        # A filter that took a normalization in is another tensor; a matrix between factors is the source's still.
        name = operation.weight.removesuffix(SMOOTHED)
        return planned_tensor(name, shape, self.formats()[operation.weight], kept)

    def _told(self, final: Plan, plan: Plan, steps: Mapping[str, Steps], errors: Mapping[str, float]) -> GraphRounding:
        chosen = _with_roots(final, plan, steps)
        products = final.products
        return GraphRounding(
            way=STATIC,
            observer=self.asked.observer,
            samples=self.samples.count - self.samples.held_out,
            samples_held_out=self.samples.held_out,
            tolerance=TOLERANCE,
            values=tuple(_value(name, root, chosen[root]) for name, root in final.values.items()),
            products=tuple(
                IntegerProduct(each.output, each.node.op_type, each.weight or None, errors[each.output])
                for each in products
            ),
            floats=tuple(_float(each, errors.get(each.output)) for each in final.stays),
            folded=tuple(each.node for each in self.source.folded),
            outputs=(),
            float_operators=float_operators(self.source.graph, set(final.operations)),
        )

    def _stated(
        self,
        final: Plan,
        plan: Plan,
        steps: Mapping[str, Steps],
        stored: Mapping[str, str],
        smoothed: Iterable[Smoothing],
    ) -> Stated:
        chosen = _with_roots(final, plan, steps)
        return Stated(
            ranges={name: (chosen[root].low, chosen[root].high) for name, root in final.values.items()},
            products={each.output: bool(each.weight) for each in final.products},
            folded=frozenset(each.node for each in self.source.folded),
            stored=frozenset((*(each.name for each in self.source.stored), *stored.values())),
            divided={each.name: each.value for each in smoothed},
        )

    def judge(self, output: Path, progress: Progress) -> tuple[OutputError, ...]:
        """Both graphs on the samples that are held out."""
        original = Running.of(self.source.file.path, self.source.file.path.parent, self.threads)
        folder = output.parent
        written = Running.of(partial_path(output), folder, self.threads)
        distance = Distance.of(original.outputs())
        done = 0
        for held_out, batch in self.samples.batches():
            if held_out:
                distance.add(original.run(batch), written.run(batch))
                done += self.samples.batch
                progress("judge", min(done, self.samples.held_out), self.samples.held_out)
        return tuple(OutputError(each.name, sqrt(each.error), each.cosine) for each in distance.outputs)

    def versions(self) -> dict[str, str]:
        """ONNX Runtime's."""
        return {"onnxruntime": str(require_runtime().__version__)}


def _with_roots(final: Plan, plan: Plan, steps: Mapping[str, Steps]) -> dict[str, Steps]:
    """The ranges of the values that are rounded in the end."""
    return {root: steps[root] if root in steps else steps[plan.values[root]] for root in final.roots}


def _stored_only(plan: Plan, final: Plan, worst: Iterable[str]) -> dict[str, str]:
    """By output, matrices of products that compute in floats and are stored in 8 bits all the same.

    Filters are small, and floats of a filter lie in the order in which a runtime wants them. What sees a rounded value
    would be a product of whole numbers if its matrix were codes too.
    """
    products = (plan.operations[output] for output in worst if output not in final.operations)
    return {
        each.output: each.weight
        for each in products
        if each.weight and each.node.op_type != "Conv" and each.values[0] not in final.routed
    }


def _weighted(plan: Plan) -> list[Operation]:
    """A product for each constant."""
    return list({each.weight: each for each in plan.products if each.weight}.values())


def _smoothed(tried: Tried) -> tuple[SmoothedValue, ...]:
    """What the record says of divided values."""
    return tuple(
        SmoothedValue(
            each.value,
            each.power,
            each.products,
            sum(tried.before[output] for output in each.products),
            sum(tried.errors[output] for output in each.products),
        )
        for each in tried.smoothed
    )


def _value(name: str, root: str, steps: Steps) -> RoundedValue:
    return RoundedValue(name, steps.low, steps.high, float(steps.scale), steps.zero, None if name == root else root)


def _float(stays: Stays, error: float | None = None) -> FloatNode:
    return FloatNode(stays.output, stays.operator, stays.why, error)
