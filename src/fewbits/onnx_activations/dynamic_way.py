"""Scales that are found at run time: no sample is needed, every matrix has 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewbits.onnx_activations.asking import DYNAMIC, Asked
from fewbits.onnx_activations.dynamic import insert_dynamic
from fewbits.onnx_activations.numbers import Weight, encode_weight, pair_floor
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.source import Source, float_operators, format_of
from fewbits.onnx_activations.stored import empty_weight, matrix_shape, planned_tensor, result_of
from fewbits.onnx_activations.stored_only import (
    empty_stored,
    encode_stored,
    insert_stored,
    planned_stored,
    results_stored,
)
from fewbits.onnx_activations.way import Planned, Progress, Rounded
from fewbits.reporting.graph_record import FloatNode, GraphRounding, IntegerProduct, OutputError
from fewbits.reporting.record import PlannedTensor
from fewbits.request import Request
from fewbits.verification.onnx_activations import Stated

_RATE = 5e7
"""Numbers per second that are encoded and compared, about."""


@dataclass(frozen=True)
class DynamicWay:
    """Dynamic rounding of one graph."""

    source: Source
    asked: Asked

    @staticmethod
    def of(source: Source, asked: Asked, request: Request, threads: int) -> DynamicWay:
        """Nothing has to be read."""
        return DynamicWay(source, asked)

    @property
    def _matrices(self) -> dict[str, Operation]:
        """Constant -> a product with it."""
        return {each.weight: each for each in self.source.plan.products}

    def planned(self) -> Planned:
        """Every product with a constant."""
        graph, facts, matrices = self.source.graph.copy(), self.source.facts, self._matrices
        empty = {n: empty_weight(facts.dims(n), e.axis, format_of(self.asked, e)) for n, e in matrices.items()}
        insert_dynamic(graph, self.source.plan, empty)
        insert_stored(graph, self.source.stored, empty_stored(self.source.stored), dynamic=True)
        tensors = (*map(self._tensor, matrices.values()), *planned_stored(self.source.stored))
        largest = max((each.parameters for each in tensors), default=0)
        return Planned(
            graph,
            tensors,
            self._floats(),
            ("Scales of values are found at run time, each time anew.",),
            sum(each.parameters for each in tensors) / _RATE,
            sum(each.parameters for each in tensors) + 16 * largest,
        )

    def round(self, progress: Progress) -> Rounded:
        """Encode and insert."""
        facts, plan, matrices = self.source.facts, self.source.plan, self._matrices
        weights: dict[str, Weight] = {}
        told = partial(progress, "quantize")
        for number, (name, each) in enumerate(matrices.items()):
            numbers = facts.numbers(name)
            assert numbers is not None
            weights[name] = encode_weight(
                numbers, each.axis, format_of(self.asked, each), pair_floor(numbers, each.axis)
            )
            told(number + 1, len(matrices))
        graph = self.source.graph.copy()
        insert_dynamic(graph, plan, weights)
        held = encode_stored(facts, self.source.stored)
        insert_stored(graph, self.source.stored, held, dynamic=True)
        tensors = tuple(result_of(self._tensor(each), weights[name]) for name, each in matrices.items())
        tensors += results_stored(self.source.stored, held)
        return Rounded(graph, tensors, self._told(), self._stated())

    def _tensor(self, operation: Operation) -> PlannedTensor:
        shape = matrix_shape(self.source.facts.dims(operation.weight), operation.axis)
        return planned_tensor(operation.weight, shape, format_of(self.asked, operation), None)

    def _floats(self) -> tuple[FloatNode, ...]:
        return tuple(FloatNode(each.output, each.operator, each.why) for each in self.source.plan.stays)

    def _told(self) -> GraphRounding:
        plan = self.source.plan
        return GraphRounding(
            way=DYNAMIC,
            observer=None,
            samples=0,
            samples_held_out=0,
            tolerance=None,
            values=(),
            products=tuple(IntegerProduct(e.output, e.node.op_type, e.weight, None) for e in plan.products),
            floats=self._floats(),
            folded=tuple(each.node for each in self.source.folded),
            outputs=(),
            float_operators=float_operators(self.source.graph, set(plan.operations)),
        )

    def _stated(self) -> Stated:
        return Stated(
            ranges={},
            products={each.output: True for each in self.source.plan.products},
            folded=frozenset(each.node for each in self.source.folded),
            stored=frozenset(each.name for each in self.source.stored),
            dynamic=True,
        )

    def judge(self, output: Path, progress: Progress) -> tuple[OutputError, ...]:
        """There are no samples to judge by."""
        return ()

    def versions(self) -> dict[str, str]:
        """Nothing else took part."""
        return {}
