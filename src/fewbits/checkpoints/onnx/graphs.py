"""Walks through a model: graphs inside of graphs, nodes, tensors, and the names of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def all_graphs(graph: Any) -> Iterator[Any]:
    """`graph` and the graphs inside of its nodes (If, Loop, Scan), the outer one first."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from all_graphs(inner)


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs that `node` holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of `graph` and of all graphs inside of it."""
    for each in all_graphs(graph):
        yield from each.node


def all_tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a model: initializers, sparse ones, and those that nodes hold, in functions too."""
    graphs = [model.graph]
    for info in model.training_info:
        graphs += [info.initialization, info.algorithm]
    for graph in graphs:
        for each in all_graphs(graph):
            yield from each.initializer
            yield from _sparse(each.sparse_initializer)
            yield from _held(each.node)
    for function in model.functions:
        yield from _held(function.node)
        for node in function.node:
            for inner in inner_graphs(node):
                for each in all_graphs(inner):
                    yield from each.initializer
                    yield from _held(each.node)


def _sparse(several: Iterable[Any]) -> Iterator[Any]:
    for each in several:
        yield each.values
        yield each.indices


def _held(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from _sparse([attribute.sparse_tensor])
            yield from _sparse(attribute.sparse_tensors)


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of `node` that are one number, by name; others as None."""
    return {each.name: each.i if each.type == 2 else each.f if each.type == 1 else None for each in node.attribute}


def whole_numbers(node: Any) -> dict[str, int]:
    """The attributes of `node` that are one whole number, by name."""
    return {each.name: each.i for each in node.attribute if each.type == 2}


class Names:
    """The names that a model uses but for those that are `freed`, and new ones."""

    def __init__(self, model: Any, freed: set[str]) -> None:
        self._taken: set[str] = set()
        for graph in all_graphs(model.graph):
            for several in (graph.initializer, graph.input, graph.output, graph.value_info):
                self._taken |= {each.name for each in several}
            for node in graph.node:
                self._taken |= {node.name, *node.input, *node.output}
        self._taken -= freed

    def new(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where that is taken."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name
