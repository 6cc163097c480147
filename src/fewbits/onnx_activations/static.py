"""QuantizeLinear and DequantizeLinear around products, at scales that are fixed: what runtimes make integer kernels of.

    x -> QuantizeLinear -> codes -> DequantizeLinear -> x_rounded -> product;   w: codes -> DequantizeLinear -> product

A value whose maker gives codes alone keeps its name behind DequantizeLinear, so that all its users see it rounded; its
maker's output is called NAME_unrounded then. Below version 13 scales per output are known to the DequantizeLinear of
com.microsoft alone, which means the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fewbits.checkpoints.onnx.products import MICROSOFT
from fewbits.onnx_activations.graph import Facts, Floats, Graph
from fewbits.onnx_activations.numbers import Weight, encode_bias, encode_weight, pair_floor, scale_floor
from fewbits.onnx_activations.observing import Steps
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.plan import Plan

PER_OUTPUT = 13
"""The first version whose DequantizeLinear has a scale per index of a side."""


def encode_weights(
    facts: Facts, plan: Plan, steps: Mapping[str, Steps], formats: Mapping[str, str]
) -> dict[str, Weight]:
    """Constant -> codes; a constant that several products share has one set, whose scales suit all their biases."""
    floors: dict[str, Floats] = {}
    axes: dict[str, int] = {}
    for each in plan.products:
        if not each.weight:
            continue
        axes.setdefault(each.weight, each.axis)
        bias = facts.numbers(each.bias) if each.bias else None
        if bias is not None:
            floor = scale_floor(bias, float(steps[plan.values[each.values[0]]].scale))
            floors[each.weight] = np.maximum(floor, floors.get(each.weight, np.float32(0.0)))
    found = {}
    for name, axis in axes.items():
        numbers = facts.numbers(name)
        assert numbers is not None
        floor = np.maximum(pair_floor(numbers, axis), floors.get(name, np.float32(0.0)))
        found[name] = encode_weight(numbers, axis, formats[name], floor)
    return found


def insert(
    graph: Graph,
    plan: Plan,
    steps: Mapping[str, Steps],
    weights: Mapping[str, Weight],
    stored: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Put the nodes of `plan` into `graph`, which is changed.

    `stored` has by output the constants of products that compute in floats, with what codes stand for.
    """
    _Insertion(graph, plan, steps, weights, stored).run()


class _Insertion:
    """New nodes, in an order in which every value is made before it is used."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        steps: Mapping[str, Steps],
        weights: Mapping[str, Weight],
        stored: Mapping[str, str],
    ) -> None:
        self.graph, self.plan, self.steps, self.weights, self.stored = graph, plan, steps, weights, stored
        self.facts = Facts.of(graph)
        self.per_output = "" if graph.opset >= PER_OUTPUT else MICROSOFT
        """Domain of the DequantizeLinear that has a scale per output."""
        self.scales: dict[str, tuple[str, str]] = {}
        """Value whose range was measured -> names of its scale and zero point."""
        self.rounded: dict[str, str] = {}
        self.decoded: dict[str, str] = {}
        self.nodes: list[Any] = []

    def run(self) -> None:
        """Put everything in."""
        if any(len(weight.scale) > 1 for weight in self.weights.values()):
            self.graph.state_domain(self.per_output)
        self._round({value.name for value in self.graph.model.graph.input})
        for name, weight in self.weights.items():
            self._decode(name, weight)
        for node in self.graph.model.graph.node:
            self._put(node)
        self.graph.set_nodes(self.nodes)
        self.graph.drop_unused(set(self.weights) | {each.bias for each in self.plan.products if each.bias})

    def _put(self, node: Any) -> None:
        operation = self.plan.operations.get(node.output[0]) if node.output else None
        copy = type(node)()
        copy.CopyFrom(node)
        if operation is not None:
            self._change(copy, operation)
        elif node.output and node.output[0] in self.stored:
            copy.input[1] = self.decoded[self.stored[node.output[0]]]
        for place, name in enumerate(copy.output):
            if name in self.plan.routed:
                copy.output[place] = self.graph.names.new(f"{name}_unrounded")
        self.nodes.append(copy)
        self._round(set(node.output), dict(zip(node.output, copy.output, strict=True)))

    def _change(self, node: Any, operation: Operation) -> None:
        """The node, reading what is rounded."""
        for place in operation.places:
            node.input[place] = self.rounded[node.input[place]]
        if operation.weight:
            node.input[1] = self.decoded[operation.weight]
        if operation.bias:
            node.input[2] = self._bias(operation)

    def _round(self, made: set[str], called: Mapping[str, str] | None = None) -> None:
        """Round those of `made` that are to be rounded; `called` has the names that they are made under."""
        for name in self.plan.values:
            if name not in made:
                continue
            root = self.plan.values[name]
            if root not in self.scales:
                steps = self.steps[root]
                self.scales[root] = (
                    self.graph.add(f"{root}_scale", np.array(steps.scale, np.float32)),
                    self.graph.add(f"{root}_zero_point", np.array(steps.zero, np.uint8)),
                )
            codes = self.graph.names.new(f"{name}_quantized")
            end = name if name in self.plan.routed else self.graph.names.new(f"{name}_rounded")
            self._node("QuantizeLinear", [(called or {}).get(name, name), *self.scales[root]], codes)
            self._node("DequantizeLinear", [codes, *self.scales[root]], end)
            self.rounded[name] = end

    def _decode(self, name: str, weight: Weight) -> None:
        single = len(weight.scale) == 1
        scale = weight.scale.reshape(()) if single else weight.scale
        parts = [
            self.graph.add(f"{name}_Q8", weight.codes),
            self.graph.add(f"{name}_scales", scale),
            self.graph.add(f"{name}_zero_points", np.zeros(scale.shape, np.int8)),
        ]
        self.decoded[name] = self.graph.names.new(f"{name}_decoded")
        self._node("DequantizeLinear", parts, self.decoded[name], axis=None if single else weight.axis)

    def _bias(self, operation: Operation) -> str:
        """A node that decodes the bias, whose scales are those of the product's sums."""
        numbers = self.facts.numbers(operation.bias)
        assert numbers is not None
        steps = self.steps[self.plan.values[operation.values[0]]]
        codes, scale = encode_bias(numbers, self.weights[operation.weight].scale, float(steps.scale))
        single = len(scale) == 1
        parts = [
            self.graph.add(f"{operation.bias}_Q32", codes),
            self.graph.add(f"{operation.bias}_scales", scale.reshape(()) if single else scale),
        ]
        end = self.graph.names.new(f"{operation.bias}_decoded")
        self._node("DequantizeLinear", parts, end, axis=None if single else 0)
        return end

    def _node(self, operator: str, inputs: list[str], output: str, *, axis: int | None = None) -> None:
        from onnx import helper

        node = helper.make_node(operator, inputs, [output], name=output, domain="" if axis is None else self.per_output)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
