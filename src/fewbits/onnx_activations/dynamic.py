"""Scales that are found at run time: DynamicQuantizeLinear, then a product of whole numbers, then its scale.

    x -> DynamicQuantizeLinear -> codes, scale, zero
    MatMulInteger(codes, w, zero) -> Cast -> Mul(scale * w's scales) -> Add(bias)

Gemm becomes MatMulInteger; Conv becomes ConvInteger, with one scale for all of the filter's outputs or one for each.
LSTM becomes com.microsoft's DynamicQuantizeLSTM. Source: the ONNX specification, DynamicQuantizeLinear 11,
MatMulInteger 10, ConvInteger 10; ONNX Runtime's ContribOperators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewbits.checkpoints.onnx.elements import FLOAT
from fewbits.onnx_activations.graph import Array, Facts, Graph
from fewbits.onnx_activations.numbers import Weight
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.plan import Plan

MIDDLE = 128
"""The code of a filter that stands for 0."""


def insert_dynamic(graph: Graph, plan: Plan, weights: Mapping[str, Weight]) -> None:
    """Put products of whole numbers in place of those of `plan` into `graph`, which is changed."""
    _Insertion(graph, plan, weights).run()


class _Insertion:
    """New nodes in place of products."""

    def __init__(self, graph: Graph, plan: Plan, weights: Mapping[str, Weight]) -> None:
        self.graph, self.plan, self.weights = graph, plan, weights
        self.facts = Facts.of(graph)
        self.codes: dict[str, tuple[str, str, str]] = {}
        """Value -> names of its codes, scale and zero point."""
        self.constants: dict[tuple[str, str], tuple[str, str]] = {}
        """Constant and operator -> names of its codes and scales."""
        self.middle = ""
        self.nodes: list[Any] = []

    def run(self) -> None:
        """Put everything in."""
        for node in self.graph.model.graph.node:
            operation = self.plan.operations.get(node.output[0]) if node.output else None
            if operation is None:
                self.nodes.append(node)
            else:
                self._replace(node, operation)
        self.graph.set_nodes(self.nodes)
        self.graph.drop_unused(set(self.weights) | {each.bias for each in self.plan.products if each.bias})

    def _replace(self, node: Any, operation: Operation) -> None:
        """The product in whole numbers, and what makes floats of it."""
        output = node.output[0]
        codes, scale, zero = self._rounded(node.input[0])
        weight, steps = self._constant(operation)
        convolves = node.op_type == "Conv"
        integer = "ConvInteger" if convolves else "MatMulInteger"
        inputs = [codes, weight, zero, *([self._middle()] if convolves else [])]
        sums = self._node(integer, inputs, f"{output}_sums", node.attribute if convolves else ())
        floats = self._node("Cast", [sums], f"{output}_cast", (_attribute("to", FLOAT),))
        both = self._node("Mul", [scale, steps], f"{output}_step")
        if not operation.bias:
            self._node("Mul", [floats, both], output, end=True)
            return
        product = self._node("Mul", [floats, both], f"{output}_product")
        self._node("Add", [product, self._bias(operation, convolves=convolves)], output, end=True)

    def _rounded(self, name: str) -> tuple[str, str, str]:
        """Codes, scale and zero point of a value, found once for all of its products."""
        if name not in self.codes:
            told = [self.graph.names.new(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")]
            from onnx import helper

            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [name], told, name=told[0]))
            self.codes[name] = (told[0], told[1], told[2])
        return self.codes[name]

    def _constant(self, operation: Operation) -> tuple[str, str]:
        """Codes as the integer operator wants them, and scales as they stand beside its sums."""
        name, kind = operation.weight, operation.node.op_type
        if (name, kind) not in self.constants:
            weight = self.weights[name]
            self.constants[name, kind] = (
                self.graph.add(f"{name}_Q8", laid_out(weight, kind)),
                self.graph.add(f"{name}_scales", beside_sums(weight, kind)),
            )
        return self.constants[name, kind]

    def _middle(self) -> str:
        """The zero point of filters."""
        self.middle = self.middle or self.graph.add("filter_zero_point", np.array(MIDDLE, np.uint8))
        return self.middle

    def _bias(self, operation: Operation, *, convolves: bool) -> str:
        """The bias as it is added; that of Conv stands beside channels."""
        if not convolves:
            return operation.bias
        numbers = self.facts.numbers(operation.bias)
        assert numbers is not None
        sides = len(self.facts.dims(operation.weight)) - 2
        return self.graph.add(f"{operation.bias}_beside", numbers.reshape(1, -1, *[1] * sides))

    def _node(self, operator: str, inputs: list[str], wanted: str, told: Any = (), *, end: bool = False) -> str:
        from onnx import helper

        output = wanted if end else self.graph.names.new(wanted)
        node = helper.make_node(operator, inputs, [output], name=output)
        node.attribute.extend(told)
        self.nodes.append(node)
        return output


def laid_out(weight: Weight, operator: str) -> Array:
    """Codes with their outputs last; those of Conv are counted from the lowest, as ONNX Runtime is faster then."""
    if operator == "Conv":
        return (weight.codes.astype(np.int16) + MIDDLE).astype(np.uint8)
    if weight.axis == 1:
        return weight.codes
    return np.ascontiguousarray(weight.codes.T)


def beside_sums(weight: Weight, operator: str) -> Array:
    """Scales as they stand beside sums: along the last side, or of Conv along the second."""
    if len(weight.scale) == 1:
        return weight.scale.reshape(())
    return weight.scale if operator != "Conv" else weight.scale.reshape(1, -1, *[1] * (weight.codes.ndim - 2))


def _attribute(name: str, value: int) -> Any:
    from onnx import helper

    return helper.make_attribute(name, value)
