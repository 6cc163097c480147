"""Constants that are stored in 8 bits, and computed with in floats: vocabularies, and matrices of LSTM and GRU.

    Gather(table, ids)  ->  Cast(Gather(codes, ids)) * Gather(scales, ids)     a scale per row; only those are decoded
    LSTM(x, w, r, ...)  ->  LSTM(x, Reshape(DequantizeLinear(codes)), ...)     a scale per gate's output

At scales that are found at run time LSTM becomes com.microsoft's DynamicQuantizeLSTM, which computes with the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from fewbits.checkpoints.onnx.elements import FLOAT
from fewbits.checkpoints.onnx.graphs import attributes
from fewbits.checkpoints.onnx.products import MICROSOFT, STANDARD
from fewbits.checkpoints.onnx.weights import SMALL_TABLE
from fewbits.onnx_activations.asking import Asked
from fewbits.onnx_activations.graph import Facts, Graph
from fewbits.onnx_activations.numbers import ROWS, Weight, encode_weight, pair_floor
from fewbits.onnx_activations.static import PER_OUTPUT
from fewbits.onnx_activations.stored import empty_weight, planned_tensor, result_of
from fewbits.reporting.record import PlannedTensor, TensorResult

DYNAMIC_LSTM = "DynamicQuantizeLSTM"
_LSTM_INPUTS = 8
"""Those of LSTM; what DynamicQuantizeLSTM wants of scales comes behind them."""


@dataclass(frozen=True)
class StoredOnly:
    """One constant of one node."""

    output: str
    """The node's first output."""
    operator: str
    place: int
    name: str
    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols), of which each row has a scale."""
        return prod(self.dims[:-1]), self.dims[-1]


def find_stored(facts: Facts, asked: Asked) -> tuple[StoredOnly, ...]:
    """Constants of the main graph that can be stored in 8 bits, and that the user does not want in floats."""
    found = []
    for node in facts.graph.model.graph.node:
        places = _PLACES.get(node.op_type) if node.domain in STANDARD else None
        for place in places(node, facts) if places and node.output[0] not in facts.hidden else ():
            name = node.input[place]
            if asked.format_of(name, node.name, node.output[0]) == ROWS:
                found.append(StoredOnly(node.output[0], node.op_type, place, name, facts.dims(name)))
    return tuple(found)


def _table(node: Any, facts: Facts) -> Iterator[int]:
    name = node.input[0]
    if attributes(node).get("axis", 0) == 0 and facts.is_float(name):
        dims = facts.dims(name)
        if len(dims) == 2 and dims[0] >= SMALL_TABLE and all(dims):
            yield 0


def _recurrent(node: Any, facts: Facts) -> Iterator[int]:
    for place in (1, 2):
        name = node.input[place] if len(node.input) > 2 else ""
        if facts.is_float(name) and len(facts.dims(name)) == 3 and all(facts.dims(name)):
            yield place


_PLACES: Mapping[str, Callable[[Any, Facts], Iterator[int]]] = MappingProxyType(
    {"Gather": _table, "LSTM": _recurrent, "GRU": _recurrent}
)


def encode_stored(facts: Facts, found: tuple[StoredOnly, ...]) -> dict[str, Weight]:
    """Constant -> codes (rows, cols)."""
    weights = {}
    for each in found:
        numbers = facts.numbers(each.name)
        assert numbers is not None
        rows = numbers.reshape(each.shape)
        weights[each.name] = encode_weight(rows, 0, ROWS, None if each.operator == "Gather" else pair_floor(rows, 0))
    return weights


def empty_stored(found: tuple[StoredOnly, ...]) -> dict[str, Weight]:
    """The same before the numbers are read."""
    return {each.name: empty_weight(each.shape, 0, ROWS) for each in found}


def planned_stored(found: tuple[StoredOnly, ...]) -> tuple[PlannedTensor, ...]:
    """What the preview says of them."""
    return tuple(planned_tensor(name, shape, ROWS, None) for name, shape in {e.name: e.shape for e in found}.items())


def results_stored(found: tuple[StoredOnly, ...], weights: Mapping[str, Weight]) -> tuple[TensorResult, ...]:
    """What the record says of them."""
    return tuple(result_of(each, weights[each.source_name]) for each in planned_stored(found))


def is_dynamic_lstm(node: Any, places: Mapping[int, str]) -> bool:
    """Whether DynamicQuantizeLSTM can take the place of `node`, both of whose matrices are codes."""
    return node.op_type == "LSTM" and set(places) == {1, 2} and not attributes(node).get("layout", 0)


def insert_stored(graph: Graph, found: tuple[StoredOnly, ...], weights: Mapping[str, Weight], *, dynamic: bool) -> None:
    """Put codes in place of the constants into `graph`, which is changed."""
    places: dict[str, dict[int, str]] = {}
    for each in found:
        places.setdefault(each.output, {})[each.place] = each.name
    made = _Insertion(graph, weights, {each.name: each.dims for each in found})
    for node in graph.model.graph.node:
        mine = places.get(node.output[0], {}) if node.output else {}
        if not mine:
            made.nodes.append(node)
        elif node.op_type == "Gather":
            made.look_up(node, mine[0])
        elif dynamic and is_dynamic_lstm(node, mine):
            made.compute(node, mine)
        else:
            made.decode(node, mine)
    graph.set_nodes(made.nodes)
    graph.drop_unused(set(weights))


class _Insertion:
    """New nodes beside codes."""

    def __init__(self, graph: Graph, weights: Mapping[str, Weight], dims: Mapping[str, tuple[int, ...]]) -> None:
        self.graph, self.weights, self.dims = graph, weights, dims
        self.nodes: list[Any] = []
        self.held: dict[str, tuple[str, ...]] = {}

    def look_up(self, node: Any, name: str) -> None:
        """Rows of codes, and of their scales."""
        from onnx import helper

        if name not in self.held:
            weight = self.weights[name]
            self.held[name] = (
                self.graph.add(f"{name}_Q8", weight.codes),
                self.graph.add(f"{name}_scales", weight.scale.reshape(-1, 1)),
            )
        output, ids = node.output[0], node.input[1]
        codes, scales = (
            self._node("Gather", [each, ids], f"{output}_{part}")
            for each, part in zip(self.held[name], ("codes", "row_scales"), strict=True)
        )
        floats = self._node("Cast", [codes], f"{output}_cast", helper.make_attribute("to", FLOAT))
        self.nodes.append(helper.make_node("Mul", [floats, scales], [output], name=node.name or output))

    def decode(self, node: Any, mine: Mapping[int, str]) -> None:
        """The node with its matrices decoded before it."""
        from onnx import helper

        copy = type(node)()
        copy.CopyFrom(node)
        for place, name in mine.items():
            if name not in self.held:
                weight, dims = self.weights[name], self.dims[name]
                parts = [
                    self.graph.add(f"{name}_Q8", weight.codes),
                    self.graph.add(f"{name}_scales", weight.scale),
                    self.graph.add(f"{name}_zero_points", np.zeros(weight.scale.shape, np.int8)),
                ]
                axis = helper.make_attribute("axis", 0)
                domain = "" if self.graph.opset >= PER_OUTPUT else MICROSOFT
                self.graph.state_domain(domain)
                rows = self._node("DequantizeLinear", parts, f"{name}_rows", axis, domain=domain)
                shape = self.graph.add(f"{name}_shape", np.array(dims, np.int64))
                self.held[name] = (self._node("Reshape", [rows, shape], f"{name}_decoded"),)
            copy.input[place] = self.held[name][0]
        self.nodes.append(copy)

    def compute(self, node: Any, mine: Mapping[int, str]) -> None:
        """DynamicQuantizeLSTM, whose matrices lie turned."""
        from onnx import helper

        self.graph.state_domain(MICROSOFT)
        inputs = [*node.input, *[""] * (_LSTM_INPUTS - len(node.input))]
        behind: list[str] = []
        for place, name in sorted(mine.items()):
            if name not in self.held:
                weight, dims = self.weights[name], self.dims[name]
                scale = weight.scale.reshape(dims[:2])
                turned = np.ascontiguousarray(weight.codes.reshape(dims).transpose(0, 2, 1))
                self.held[name] = (
                    self.graph.add(f"{name}_Q8", turned),
                    self.graph.add(f"{name}_scales", scale),
                    self.graph.add(f"{name}_zero_points", np.zeros(scale.shape, np.int8)),
                )
            inputs[place], *rest = self.held[name]
            behind += rest
        made = helper.make_node(DYNAMIC_LSTM, [*inputs, *behind], list(node.output), name=node.name, domain=MICROSOFT)
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def _node(self, operator: str, inputs: list[str], wanted: str, told: Any = None, *, domain: str = "") -> str:
        from onnx import helper

        output = self.graph.names.new(wanted)
        node = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        node.attribute.extend([told] if told is not None else [])
        self.nodes.append(node)
        return output
