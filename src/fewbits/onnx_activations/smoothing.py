"""Values with a few large columns are divided by factors, column by column, and the matrices behind multiplied by them.

    x W  =  (x / f) (f W),   f = max|x|^a / max|W|^(1 - a), column by column

The product is the same, and x / f has columns that are about equally large, so that one scale suits them all. It costs
one Mul per value. The power a is tried out, by products of rounded values on samples that measured no range.
Source: SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, equation 4); there f goes into the layer before, which a graph
whose value others read too, or a GELU made, does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.onnx.graphs import Names
from fewbits.onnx_activations.graph import Array, Facts, Floats, Graph
from fewbits.onnx_activations.numbers import MOST, as_rows
from fewbits.onnx_activations.observing import Columns
from fewbits.onnx_activations.operations import Operation
from fewbits.onnx_activations.plan import Plan

SMOOTHED = "_smoothed"
"""How the names of divided values and of their matrices end."""
POWERS = tuple(number / 20 for number in range(6, 20))
FURTHEST = 1e4
"""No factor is further from 1."""
_CODES = 255
_MULTIPLY = frozenset({"MatMul", "Gemm"})
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Smoothing:
    """A value of the source that is divided by `factor` (columns,), before the products whose outputs are named."""

    value: str
    factor: Floats
    power: float
    products: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the divided value is called."""
        return f"{self.value}{SMOOTHED}"

    def without(self, outputs: Collection[str]) -> Smoothing:
        """The same before fewer products."""
        return replace(self, products=tuple(each for each in self.products if each not in outputs))


def smoothable(facts: Facts, plan: Plan, costly: set[str]) -> dict[str, list[Operation]]:
    """Value -> the products of matrices that read it, where one of those is `costly` and all can be rewritten.

    A value that its maker gives as codes would be rounded twice; a matrix that something else uses too would differ.
    """
    found: dict[str, list[Operation]] = {}
    for each in plan.products:
        if each.weight and each.node.op_type in _MULTIPLY:
            found.setdefault(each.values[0], []).append(each)
    return {
        value: products
        for value, products in found.items()
        if costly & {each.output for each in products}
        and value not in plan.routed
        and _names_are_free(facts, [value, *(each.weight for each in products)])
        and all(facts.users[e.weight] == sum(o.weight == e.weight for o in products) for e in products)
    }


def _names_are_free(facts: Facts, names: Sequence[str]) -> bool:
    """Whether nothing is called as what comes of these will be."""
    known = Names(facts.graph.model, set())
    return all(known.new(name) == name for name in {f"{each}{SMOOTHED}" for each in names})


def choose(facts: Facts, value: str, products: Sequence[Operation], columns: Columns) -> Smoothing:
    """The best power for one value."""
    matrices = [_matrix(facts, each) for each in products]
    wanted = [columns.rows @ matrix.T for matrix in matrices]
    reach = np.max([np.abs(matrix).max(0) for matrix in matrices], axis=0).astype(np.float64)
    tried = []
    for power in POWERS:
        factor = factor_of(columns, reach, power)
        tried.append((_missed(matrices, wanted, columns, factor), power, factor))
    _, power, factor = min(tried, key=lambda each: each[0])
    return Smoothing(value, factor, power, tuple(each.output for each in products))


def factor_of(columns: Columns, reach: Doubles, power: float) -> Floats:
    """The factor (columns,) of one power; 1 where a column of the value or of the matrices is all 0."""
    largest = np.maximum(np.abs(columns.low), np.abs(columns.high)).astype(np.float64)
    told = (largest > 0) & (reach > 0)
    factor = np.ones_like(reach)
    factor[told] = largest[told] ** power / reach[told] ** (1 - power)
    middle = np.sqrt(factor[told].max() * factor[told].min()) if told.any() else 1.0
    factor[told] = np.clip(factor[told] / middle, 1 / FURTHEST, FURTHEST)
    return factor.astype(np.float32)


def _missed(matrices: Sequence[Floats], wanted: Sequence[Floats], columns: Columns, factor: Floats) -> float:
    """The squared error of products of rounded values and rounded matrices.

    Of every row beside its own size, as most that follows a product looks at rows one by one.
    """
    low, high = min(float((columns.low / factor).min()), 0.0), max(float((columns.high / factor).max()), 0.0)
    step = (high - low) / _CODES or 1.0
    codes = np.clip(np.rint(columns.rows / factor / step), np.rint(low / step), np.rint(low / step) + _CODES)
    x = (codes * step).astype(np.float32)
    total = 0.0
    for matrix, exact in zip(matrices, wanted, strict=True):
        scaled = matrix * factor
        steps = np.maximum(np.abs(scaled).max(1, keepdims=True) / MOST, np.finfo(np.float32).tiny)
        missed = np.square(x @ (np.rint(scaled / steps) * steps).T - exact).sum(1, dtype=np.float64)
        size = np.square(exact).sum(1, dtype=np.float64)
        total += float((missed[size > 0] / size[size > 0]).sum())
    return total


def _matrix(facts: Facts, operation: Operation) -> Floats:
    numbers = facts.numbers(operation.weight)
    assert numbers is not None, "a product's matrix is a constant"
    return as_rows(numbers, operation.axis)


def smooth(graph: Graph, plan: Plan, several: Sequence[Smoothing]) -> None:
    """Divide values of `graph`, which is changed, and multiply the matrices of the products that are named."""
    _Rewriting(graph, plan, several).run()


class _Rewriting:
    """New nodes before products, and new matrices in them."""

    def __init__(self, graph: Graph, plan: Plan, several: Sequence[Smoothing]) -> None:
        self.graph, self.facts = graph, Facts.of(graph)
        self.operations = plan.operations
        self.users = {output: each for each in several for output in each.products}
        self.divided: set[str] = set()
        self.matrices: dict[str, str] = {}
        self.nodes: list[Any] = []

    def run(self) -> None:
        """Rewrite all."""
        for node in self.graph.model.graph.node:
            smoothing = self.users.get(node.output[0]) if node.output else None
            if smoothing is not None:
                self._divide(smoothing)
                weight = self._multiplied(self.operations[node.output[0]], smoothing.factor)
                node.input[0], node.input[1] = smoothing.name, weight
            self.nodes.append(node)
        self.graph.set_nodes(self.nodes)
        self.graph.drop_unused(set(self.matrices))

    def _divide(self, smoothing: Smoothing) -> None:
        from onnx import helper

        if smoothing.value in self.divided:
            return
        self.divided.add(smoothing.value)
        by = self.graph.add(f"{smoothing.name}_by", reciprocal(smoothing.factor))
        self.nodes.append(helper.make_node("Mul", [smoothing.value, by], [smoothing.name], name=smoothing.name))

    def _multiplied(self, operation: Operation, factor: Floats) -> str:
        name = operation.weight
        if name not in self.matrices:
            numbers = self.facts.numbers(name)
            assert numbers is not None, "a product's matrix is a constant"
            # As float32 has the reciprocal, so that both sides mean the same factor.
            exact = 1 / reciprocal(factor).astype(np.float64)
            beside = exact[:, None] if operation.axis == 1 else exact
            self.matrices[name] = self.graph.add(f"{name}{SMOOTHED}", (numbers * beside).astype(np.float32))
        return self.matrices[name]


def reciprocal(factor: Floats) -> Array:
    """What a value is multiplied by, so that it is divided by `factor`."""
    return (1 / factor.astype(np.float64)).astype(np.float32)


def accepted(several: Sequence[Smoothing], before: Mapping[str, float], after: Mapping[str, float]) -> list[Smoothing]:
    """Those whose products cost less, all together, than they did.

    >>> one = Smoothing("x", np.ones(1, np.float32), 0.5, ("a", "b"))
    >>> [len(accepted([one], {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": b})) for b in (2.0, 4.0)]
    [1, 0]
    """
    return [e for e in several if sum(after[p] for p in e.products) < sum(before[p] for p in e.products)]
