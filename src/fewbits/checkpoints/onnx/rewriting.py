"""Put quantized matrices into a graph: new initializers, new nodes in place of products, all else as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.checkpoints.dialects.uniform import uniform_of
from fewbits.checkpoints.onnx.dialects.base import GraphDialect, GraphMatrix, Parts
from fewbits.checkpoints.onnx.graphs import Names, all_graphs, all_nodes
from fewbits.checkpoints.onnx.opsets import raise_opset
from fewbits.checkpoints.onnx.products import STANDARD, Product

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
    domains = {node.domain for node in all_nodes(model.graph)}
    freed = _freed(model, edit)
    names = Names(model, freed)
    slots = {name: edit.dialect.slots(matrix) for name, matrix in edit.matrices.items()}
    parts = {
        name: Parts.of(matrix, slots[name], names, uniform_of(matrix).bits) for name, matrix in edit.matrices.items()
    }
    for graph in all_graphs(model.graph):
        _replace_nodes(graph, edit, parts, names)
    before = [node for name, matrix in edit.matrices.items() for node in edit.dialect.before(matrix, parts[name])]
    _set_nodes(model.graph, [*before, *model.graph.node])
    _remove(model.graph, freed)
    _forget(model, domains)
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


def _freed(model: Any, edit: Edit) -> set[str]:
    """Names of which nothing is left once products and what decoded their matrices are replaced."""
    gone: set[str] = set()
    kept = {value.name for graph in all_graphs(model.graph) for value in graph.output}
    for node in all_nodes(model.graph):
        product = edit.product_of(node)
        if product is not None:
            kept |= {product.input, product.bias}
            gone |= set(node.input) - {product.input, product.bias}
        elif edit.drops(node):
            gone |= {*node.input, *node.output}
        else:
            kept |= set(node.input)
    return gone - kept


def _replace_nodes(graph: Any, edit: Edit, parts: Mapping[str, Parts], names: Names) -> None:
    """New nodes in place of products and of what decoded their matrices."""
    nodes: list[Any] = []
    for node in graph.node:
        product = edit.product_of(node)
        if product is not None:
            nodes += edit.dialect.product(product, edit.matrices[product.weight], parts[product.weight], names)
        elif not edit.drops(node):
            nodes.append(node)
    _set_nodes(graph, nodes)


def _set_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    copies = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _copied(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _forget(model: Any, domains: set[str]) -> None:
    """Operators of no standard whose last node was replaced need not be stated any more."""
    bodies = (node for function in model.functions for node in function.node)
    used = {node.domain for node in (*all_nodes(model.graph), *bodies)}
    for place in reversed(range(len(model.opset_import))):
        if model.opset_import[place].domain in domains - used - set(STANDARD):
            del model.opset_import[place]


def _remove(graph: Any, names: set[str]) -> None:
    """Remove initializers of these names, and what is said of them."""
    for several in (graph.initializer, graph.input, graph.value_info, graph.quantization_annotation):
        for place in reversed(range(len(several))):
            each = several[place]
            if (each.tensor_name if several is graph.quantization_annotation else each.name) in names:
                del several[place]
