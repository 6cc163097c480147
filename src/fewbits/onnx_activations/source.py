"""The graph that is to be rounded: opened, checked, its normalizations folded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, get
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import all_graphs, all_nodes
from fewbits.checkpoints.onnx.products import STANDARD
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.onnx_activations.asking import DYNAMIC, FIRST_OPSET, Asked
from fewbits.onnx_activations.folding import FOLDED, Folded, fold_normalizations
from fewbits.onnx_activations.graph import Facts, Graph
from fewbits.onnx_activations.plan import Plan, make_plan
from fewbits.onnx_activations.smoothing import SMOOTHED
from fewbits.onnx_activations.stored_only import StoredOnly, find_stored

_QUIET = frozenset({"Constant", "Identity", "Shape", "Cast"})
"""Operators that nobody counts on being computed with whole numbers."""


@dataclass(frozen=True)
class Source:
    """A graph, ready to be rounded."""

    file: OnnxFile
    graph: Graph
    """With its normalizations folded."""
    facts: Facts
    plan: Plan
    stored: tuple[StoredOnly, ...]
    """Constants that are stored in 8 bits and computed with in floats."""
    folded: tuple[Folded, ...]
    notes: tuple[str, ...]

    def rewritten(self, rewrite: Callable[[Graph, Plan], None]) -> Source:
        """The same with another graph that gives the same numbers; what stays in floats for a reason stays."""
        graph = self.graph.copy()
        rewrite(graph, self.plan)
        facts = Facts.of(graph)
        plan = make_plan(facts, {each.output: each.why for each in self.plan.stays})
        return replace(self, graph=graph, facts=facts, plan=plan)


def open_graph_source(path: Path, asked: Asked) -> Source:
    """The graph at `path`; raises CheckpointError where none of it can be computed with whole numbers."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; check the path.")
    file = OnnxFile(path)
    if file.opset < FIRST_OPSET:
        raise CheckpointError(
            f"{path} states version {file.opset} of ONNX's operators, and values are rounded from {FIRST_OPSET} "
            "on; export the model again with opset 13 or later."
        )
    held = next((name for name in GRAPH_DIALECTS if get(name).find(file)[0]), None)
    rounds = next((n.op_type for n in all_nodes(file.model.graph) if n.op_type in _ROUNDS), None)
    if held or rounds:
        raise CheckpointError(
            f"{path} is quantized already ({held or rounds}); start from the original model, never a second rounding."
        )
    graph = Graph.of(file)
    folded = fold_normalizations(graph)
    facts = Facts.of(graph)
    plan = make_plan(facts, _kept_by_user(facts, asked), constants=asked.way == DYNAMIC)
    stored = find_stored(facts, asked)
    if not plan.products and not stored:
        why = "; ".join(float_reasons(plan)) or "it has no MatMul, Gemm or Conv"
        raise CheckpointError(f"{path} has no product that whole numbers can compute: {why}.")
    return Source(file, graph, facts, plan, stored, folded, _notes(file, folded))


_ROUNDS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "MatMulInteger"})


def _kept_by_user(facts: Facts, asked: Asked) -> dict[str, str]:
    """Products that the user wants in floats, by output."""
    plan = make_plan(facts, {})
    called = {each.output: _called(each) for each in plan.products}
    others = (name for n in facts.graph.model.graph.node for name in (*n.input, *n.output, n.name))
    asked.require_met([*(name for names in called.values() for name in names), *others])
    return {output: "--tensor says so" for output, names in called.items() if asked.format_of(*names) == "F32"}


def _called(operation: Any) -> tuple[str, ...]:
    """The names by which a user may mean a product."""
    return tuple(filter(None, (operation.weight, source_name(operation.weight), operation.node.name, operation.output)))


def source_name(weight: str) -> str:
    """What the source calls a constant that a rewrite has made another of."""
    return weight.removesuffix(SMOOTHED).removesuffix(FOLDED)


def float_reasons(plan: Plan) -> list[str]:
    """Why nodes stay in floats, each reason once with the first node."""
    first: dict[str, str] = {}
    for each in plan.stays:
        first.setdefault(each.why, f"{each.operator} {quoted(each.output)}")
    return [f"{node}: {why}" for why, node in first.items()]


def format_of(asked: Asked, operation: Any) -> str:
    """The format of a product's constant."""
    return asked.format_of(*_called(operation))


def float_operators(graph: Graph, computed: set[str]) -> dict[str, int]:
    """Operator -> how many nodes, of those whose first output is not `computed` with whole numbers."""
    nodes = [
        f"{n.domain}.{n.op_type}" if n.domain not in STANDARD else n.op_type
        for n in all_nodes(graph.model.graph)
        if n.op_type not in _QUIET and n.output and n.output[0] not in computed
    ]
    return dict(Counter(nodes).most_common())


def _notes(file: OnnxFile, folded: tuple[Folded, ...]) -> tuple[str, ...]:
    notes = []
    if folded:
        notes.append(f"{len(folded)} BatchNormalization went into the filters before them.")
    inner = sum(len(each.node) for each in list(all_graphs(file.model.graph))[1:])
    if inner:
        notes.append(f"{inner} nodes of graphs inside of nodes stay as they are.")
    custom = sorted({n.op_type for n in all_nodes(file.model.graph) if n.domain not in (*STANDARD, "com.microsoft")})
    if custom:
        notes.append(f"Operators of other domains stay as they are: {', '.join(custom)}.")
    return tuple(notes)
