"""The float matrices of a graph that can be quantized: what MatMul, Gemm and Conv multiply by, and Gather looks up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.derived import ReshapedTensor, TransposedTensor
from fewbits.checkpoints.onnx.elements import ELEMENTS, FLOATS
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import all_graphs, all_nodes
from fewbits.checkpoints.onnx.products import product_of
from fewbits.checkpoints.quoting import quoted

SMALL_TABLE = 4096
"""Rows below which a table is no vocabulary: positions and kinds of tokens stay in every recipe, small and delicate."""


@dataclass(frozen=True)
class Weight:
    """One initializer as a matrix (rows, cols), of which a row makes one output."""

    name: str
    dims: tuple[int, ...]
    """As it lies in the graph."""
    format: str
    """"F32" or "F16", in which the graph computes with it."""
    transposed: bool
    """Whether the graph has it with its columns as rows."""
    looked_up: bool = False
    """Whether it is a table whose rows are looked up, and nothing multiplies by it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols); of a filter all of an output's numbers are its row."""
        first, last = self.dims[0], prod(self.dims[1:])
        return (last, first) if self.transposed else (first, last)


def find_weights(file: OnnxFile) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """The matrices of `file` by name, in the order of the graph, and a note for each that stays and might surprise."""
    graph = file.model.graph
    known = {tensor.name: tensor for tensor in graph.initializer if _is_matrix(tensor)}
    ways, others, vectors = _uses(graph, known)
    hidden = _hidden(graph) | dict.fromkeys(vectors, "it multiplies a vector")
    # Before version 4 every initializer had to be an input as well; since then only what may be replaced is one.
    if file.model.ir_version >= 4:
        hidden |= {value.name: "it is an input too, so that others can be given for it" for value in graph.input}
    hidden |= {name: "products use it both ways round" for name, each in ways.items() if len(each) > 1}
    used = {name: tensor for name, tensor in known.items() if name in ways}
    hidden |= {
        name: f"a table of {known[name].dims[0]} rows holds positions or kinds, which are small and delicate"
        for name, each in ways.items()
        if (False, True) in each and known[name].dims[0] < SMALL_TABLE
    }
    found = {
        name: Weight(name, tuple(tensor.dims), ELEMENTS[tensor.data_type].format, *next(iter(ways[name])))
        for name, tensor in used.items()
        if name not in hidden
    }
    notes = [f"{quoted(name)} stays as it is: {hidden[name]}." for name in used if name in hidden]
    both = [name for name in found if name in others]
    notes += [f"{quoted(name)} is used by other nodes too, for which it stays beside its codes." for name in both]
    return found, tuple(notes)


Way = tuple[bool, bool]
"""Whether a node has a matrix with its columns as rows, and whether it looks it up."""


def _uses(graph: Any, known: Mapping[str, Any]) -> tuple[dict[str, set[Way]], set[str], set[str]]:
    """Name -> how nodes have it; names that other nodes have; and those that multiply vectors.

    A table that something multiplies by as well is a matrix, and looked up by another node.
    """
    ways: dict[str, set[Way]] = {}
    others: set[str] = set()
    vectors: set[str] = set()
    ranks = _ranks(graph)
    for node in all_nodes(graph):
        product = product_of(node)
        if product is not None and (product.weight not in known or not _fits(node, known[product.weight])):
            product = None
        others |= set(known) & set(node.input) - ({product.weight} if product is not None else set())
        if product is not None:
            ways.setdefault(product.weight, set()).add((product.transposed, product.looked_up))
            vectors |= {product.weight} if ranks.get(product.input) == 1 and not product.looked_up else set()
    both = {name for name, each in ways.items() if len({looked_up for _, looked_up in each}) > 1}
    ways |= {name: {way for way in ways[name] if not way[1]} for name in both}
    return ways, others | both, vectors


def _fits(node: Any, tensor: Any) -> bool:
    """Whether a constant has as many sides as the operator's matrices."""
    return bool((node.op_type == "Conv") == (len(tensor.dims) > 2))


@dataclass(frozen=True)
class Table(StoredTensor):
    """A matrix whose rows are looked up."""


def stored_weight(file: OnnxFile, weight: Weight) -> StoredTensor:
    """The numbers of `weight`, rows being outputs."""
    stored = file.stored(file.initializers[weight.name])
    if len(weight.dims) > 2:
        return ReshapedTensor.of(stored, weight.shape)
    if weight.looked_up:
        return Table(**vars(stored))
    return TransposedTensor.of(stored) if weight.transposed else stored


def _is_matrix(tensor: Any) -> bool:
    kind = ELEMENTS.get(tensor.data_type)
    return kind is not None and kind.format in FLOATS and len(tensor.dims) >= 2 and all(tensor.dims)


def _hidden(graph: Any) -> dict[str, str]:
    """Names that are more than a constant -> why."""
    graphs = list(all_graphs(graph))
    inner = {
        name
        for each in graphs[1:]
        for several in (each.initializer, each.input)
        for name in (value.name for value in several)
    } | {name for each in graphs[1:] for node in each.node for name in node.output}
    said = dict.fromkeys(inner, "a graph inside of a node has another value of that name")
    said |= {value.name: "it is an output of the graph" for each in graphs for value in each.output}
    return said


def _ranks(graph: Any) -> dict[str, int]:
    """How many sides values have, as far as the graph says."""
    known = {}
    for each in all_graphs(graph):
        for several in (each.input, each.value_info, each.output):
            for value in several:
                if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                    known[value.name] = len(value.type.tensor_type.shape.dim)
    return known
