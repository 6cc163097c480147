"""Put quantized matrices into a graph: new initializers, new nodes in place of products, all else as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.checkpoints.dialects.uniform import uniform_of
from fewbits.checkpoints.onnx.dialects.base import GraphDialect, GraphMatrix, Parts
from fewbits.checkpoints.onnx.graphs import Names, all_graphs, all_nodes
from fewbits.checkpoints.onnx.opsets import raise_opset
from fewbits.checkpoints.onnx.products import Product

DOMAIN_VERSION = 1
"""Of com.microsoft."""


@dataclass(frozen=True)
class NewTensor:
    """An initializer that will hold one part of a matrix."""

    matrix: str
    part: str
    tensor: Any


@dataclass(frozen=True)
class Edit:
    """What is to become of a graph."""

    dialect: GraphDialect
    matrices: Mapping[str, GraphMatrix]
    """Name -> the matrix as the dialect will hold it."""
    product_of: Callable[[Any], Product | None]
    """A node as a product with one of them."""
    drops: Callable[[Any], bool]
    """Whether a node only decodes one of them."""


def rewrite(model: Any, edit: Edit) -> tuple[list[NewTensor], tuple[str, ...]]:
    """Make `model` hold the matrices as `edit` says; the initializers to fill, and notes on what had to be raised."""
    notes = _state_needs(model, edit)
    names = Names(model)
    slots = {name: edit.dialect.slots(matrix) for name, matrix in edit.matrices.items()}
    parts = {
        name: Parts.of(matrix, slots[name], names, uniform_of(matrix).bits) for name, matrix in edit.matrices.items()
    }
    left: set[str] = set()
    for graph in all_graphs(model.graph):
        _replace_nodes(graph, edit, parts, names, left)
    before = [node for name, matrix in edit.matrices.items() for node in edit.dialect.before(matrix, parts[name])]
    _set_nodes(model.graph, [*before, *model.graph.node])
    _remove_unused(model, left)
    new = []
    for name in edit.matrices:
        for part, (kind, dims) in slots[name].items():
            tensor = model.graph.initializer.add(name=parts[name].tensors[part], data_type=kind, dims=dims)
            new.append(NewTensor(name, part, tensor))
    return new, notes


def _state_needs(model: Any, edit: Edit) -> tuple[str, ...]:
    """Versions and domains that the new nodes need; a note where a version had to be raised."""
    needs = [edit.dialect.needs(matrix) for matrix in edit.matrices.values()]
    notes: tuple[str, ...] = ()
    opset = max((each.opset for each in needs), default=0)
    if opset and raise_opset(model, opset, f"the dialect {edit.dialect.name}"):
        notes = (f"The graph states version {opset} of ONNX's operators now: all of its nodes mean the same there.",)
    model.ir_version = max(model.ir_version, *(each.ir_version for each in needs), 0)
    stated = {each.domain for each in model.opset_import}
    for domain in sorted({each.domain for each in needs} - {""} - stated):
        model.opset_import.add(domain=domain, version=DOMAIN_VERSION)
    return notes


def _replace_nodes(graph: Any, edit: Edit, parts: Mapping[str, Parts], names: Names, left: set[str]) -> None:
    """New nodes in place of products and of what decoded their matrices; `left` gets the inputs of the old ones."""
    nodes: list[Any] = []
    changed = False
    for node in graph.node:
        product = edit.product_of(node)
        new = [node]
        if product is not None:
            new = edit.dialect.product(product, edit.matrices[product.weight], parts[product.weight], names)
        elif edit.drops(node):
            new = []
        if new != [node]:
            changed = True
            left |= set(node.input)
        nodes += new
    if changed:
        _set_nodes(graph, nodes)


def _set_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    copies = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _copied(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _remove_unused(model: Any, left: set[str]) -> None:
    """Remove initializers that only replaced nodes had asked for, and what is said of them."""
    used = {name for node in all_nodes(model.graph) for name in node.input}
    used |= {value.name for graph in all_graphs(model.graph) for value in graph.output}
    unused = {tensor.name for tensor in model.graph.initializer if tensor.name in left - used}
    for several in (model.graph.initializer, model.graph.input, model.graph.value_info):
        _remove(several, lambda each: each.name in unused)
    _remove(model.graph.quantization_annotation, lambda each: each.tensor_name in unused)


def _remove(several: Any, which: Callable[[Any], bool]) -> None:
    for place in reversed(range(len(several))):
        if which(several[place]):
            del several[place]
