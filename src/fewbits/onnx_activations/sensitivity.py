"""Which products cost most when they are rounded: each is rounded alone, and what comes out of the graph is compared.

One graph holds all roundings, each behind a switch: x + s * (rounded(x) - x) as Where(s, rounded(x), x). So every
product is measured by one run over a few samples, and nothing is built twice. Errors of roundings that do not know of
each other add up as squares, to first order; what stays in floats is chosen by that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from fewbits.onnx_activations.graph import Graph
from fewbits.onnx_activations.judging import Distance
from fewbits.onnx_activations.numbers import Weight
from fewbits.onnx_activations.observing import Steps
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.plan import Plan
from fewbits.onnx_activations.runtime import Running, materialized
from fewbits.onnx_activations.samples import Batch

TOLERANCE = 0.01
"""Squared relative error of the outputs that all roundings together may reach, as the sum of what each costs alone: 2
(1 - cosine) for vectors of one length, so that 0.01 is a cosine of 0.995."""


def errors_alone(
    graph: Graph,
    plan: Plan,
    steps: Mapping[str, Steps],
    weights: Mapping[str, Weight],
    batches: Sequence[Batch],
    threads: int,
    progress: Callable[[int, int], None],
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """Product, by its output -> squared relative error of the graph's outputs where it alone is rounded.

    `only` has those that are asked for, where it is not all.
    """
    switched = _switched(graph, plan, steps, weights)
    running = Running.of(materialized(switched.model, graph.file, switched.arrays), graph.file.path.parent, threads)
    products = plan.products
    names = [f"{_SWITCH}{number}" for number in range(len(products))]
    off = {name: np.array(False) for name in names}
    plain = [running.run({**batch, **off}) for batch in batches]
    errors = {}
    for number, each in enumerate(products):
        if only is not None and each.output not in only:
            continue
        given = {**off, names[number]: np.array(True)}
        distance = Distance.of(running.outputs())
        for batch, original in zip(batches, plain, strict=True):
            distance.add(original, running.run({**batch, **given}))
        errors[each.output] = distance.error
        progress(number + 1, len(products))
    return errors


def worst_of(errors: Mapping[str, float], tolerance: float = TOLERANCE) -> dict[str, float]:
    """The fewest products, by output, without which the others' errors add up to at most `tolerance`.

    >>> worst_of({"a": 0.001, "b": 0.2, "c": 0.003}, 0.005)
    {'b': 0.2}
    """
    left, found = sum(errors.values()), {}
    for name in sorted(errors, key=lambda each: -errors[each]):
        if left <= tolerance:
            break
        found[name] = errors[name]
        left -= errors[name]
    return found


_SWITCH = "fewbits_switch_"


def _switched(graph: Graph, plan: Plan, steps: Mapping[str, Steps], weights: Mapping[str, Weight]) -> Graph:
    """The graph with a rounded copy of every factor, and a switch per product."""
    made = graph.copy()
    products = {each.output: (number, each) for number, each in enumerate(plan.products)}
    nodes: list[Any] = []
    maker = _Switches(made, plan, steps, weights, nodes)
    for node in made.model.graph.node:
        number, operation = products.get(node.output[0] if node.output else "", (0, None))
        if operation is None:
            nodes.append(node)
        else:
            maker.put(node, operation, f"{_SWITCH}{number}")
    made.set_nodes(nodes)
    return made


class _Switches:
    """Nodes that round what a product reads, where its switch is on."""

    def __init__(
        self, graph: Graph, plan: Plan, steps: Mapping[str, Steps], weights: Mapping[str, Weight], nodes: list[Any]
    ) -> None:
        self.graph, self.plan, self.steps, self.weights, self.nodes = graph, plan, steps, weights, nodes
        self.decoded: dict[str, str] = {}

    def put(self, node: Any, operation: Operation, switch: str) -> None:
        """The product behind its switch, and what it gives where that has to be rounded."""
        from onnx import TensorProto, helper

        self.graph.model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        copy = type(node)()
        copy.CopyFrom(node)
        for place in operation.places:
            name = copy.input[place]
            copy.input[place] = self._where(switch, self._rounded(name, self.plan.values[name]), name)
        if operation.weight:
            weight = operation.weight
            if weight not in self.decoded:
                self.decoded[weight] = self.graph.add(f"{weight}_tried", self.weights[weight].decoded)
            copy.input[1] = self._where(switch, self.decoded[weight], weight)
        self.nodes.append(copy)

    def _rounded(self, name: str, root: str) -> str:
        steps = self.steps[root]
        scale = self.graph.add(f"{name}_tried_scale", np.array(steps.scale, np.float32))
        zero = self.graph.add(f"{name}_tried_zero", np.array(steps.zero, np.uint8))
        codes = self._node("QuantizeLinear", [name, scale, zero], f"{name}_tried_codes")
        return self._node("DequantizeLinear", [codes, scale, zero], f"{name}_tried")

    def _where(self, switch: str, one: str, other: str) -> str:
        return self._node("Where", [switch, one, other], f"{other}_{switch}")

    def _node(self, operator: str, inputs: list[str], wanted: str) -> str:
        from onnx import helper

        output = self.graph.names.new(wanted)
        self.nodes.append(helper.make_node(operator, inputs, [output]))
        return output
