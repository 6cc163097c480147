"""A graph that is being rewritten: its nodes, its constants, and those that are new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.onnx.elements import FLOAT
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import Names, all_graphs, all_nodes
from fewbits.checkpoints.onnx.products import STANDARD

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass
class Graph:
    """`model`, a copy of that of `file`, and the arrays of its new constants."""

    file: OnnxFile
    model: Any
    arrays: dict[str, Array] = field(default_factory=dict)

    @staticmethod
    def of(file: OnnxFile) -> Graph:
        """The graph of `file`, to be changed."""
        model = type(file.model)()
        model.CopyFrom(file.model)
        return Graph(file, model)

    def copy(self) -> Graph:
        """One to be changed beside this one."""
        model = type(self.model)()
        model.CopyFrom(self.model)
        return Graph(self.file, model, dict(self.arrays))

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((int(each.version) for each in self.model.opset_import if each.domain in STANDARD), 0)

    @cached_property
    def names(self) -> Names:
        """Names that are taken, and new ones."""
        return Names(self.model, set())

    def add(self, wanted: str, array: Array) -> str:
        """A new constant, and what it is called."""
        from onnx import helper

        name = self.names.new(wanted)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.model.graph.initializer.add(name=name, data_type=kind, dims=array.shape)
        self.arrays[name] = array
        return name

    def set_nodes(self, nodes: Iterable[Any]) -> None:
        """Other nodes in the main graph."""
        copies = []
        for node in nodes:
            copy = type(node)()
            copy.CopyFrom(node)
            copies.append(copy)
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)

    def state_domain(self, domain: str) -> None:
        """State that operators of `domain` are used."""
        if domain and domain not in {each.domain for each in self.model.opset_import}:
            self.model.opset_import.add(domain=domain, version=1)

    def drop_unused(self, names: set[str]) -> None:
        """Take away those constants called `names` that no node asks for, and those of new ones too."""
        asked = {name for node in all_nodes(self.model.graph) for name in node.input}
        asked |= {value.name for each in all_graphs(self.model.graph) for value in each.output}
        gone = names - asked
        graph = self.model.graph
        for several in (graph.initializer, graph.input, graph.value_info):
            for place in reversed(range(len(several))):
                if several[place].name in gone:
                    del several[place]
        self.set_nodes(n for n in graph.node if n.op_type != "Constant" or n.output[0] not in gone)
        for name in gone:
            self.arrays.pop(name, None)


@dataclass(frozen=True)
class Facts:
    """What is where in a graph, as it is now."""

    graph: Graph
    makers: dict[str, Any]
    """Value -> the node of the main graph that makes it."""
    users: Counter[str]
    """Value -> how many inputs of nodes, in graphs inside of nodes too, and outputs it is."""
    outputs: frozenset[str]
    constants: dict[str, Any]
    """Name -> TensorProto of what is a constant and nothing else."""
    ranks: dict[str, int]
    hidden: frozenset[str]
    """Names that graphs inside of nodes use."""

    @staticmethod
    def of(graph: Graph) -> Facts:
        """The facts of `graph`."""
        main = graph.model.graph
        inner = list(all_graphs(main))[1:]
        users = Counter(name for node in all_nodes(main) for name in node.input if name)
        users.update(value.name for each in (main, *inner) for value in each.output)
        makers = {name: node for node in main.node for name in node.output if name}
        hidden = {name for each in inner for node in each.node for name in (*node.input, *node.output)}
        hidden |= {tensor.name for each in inner for tensor in each.initializer}
        return Facts(
            graph,
            makers,
            users,
            frozenset(value.name for value in main.output),
            _constants(graph.model),
            _ranks(main),
            frozenset(hidden),
        )

    def numbers(self, name: str) -> Array | None:
        """The constant called `name` in float32 or whole numbers; None where it is none, or of another type."""
        if name in self.graph.arrays:
            return self.graph.arrays[name]
        tensor = self.constants.get(name)
        if tensor is None:
            return None
        from onnx import helper

        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        data = np.ascontiguousarray(self.graph.file.payload(tensor))
        found: Array = data.view(dtype).reshape(tuple(tensor.dims))
        return found

    def is_float(self, name: str) -> bool:
        """Whether `name` is a constant in float32."""
        return name in self.constants and self.constants[name].data_type == FLOAT

    def dims(self, name: str) -> tuple[int, ...]:
        """The sides of a constant."""
        return tuple(self.constants[name].dims)


def _constants(model: Any) -> dict[str, Any]:
    """Initializers that nobody can replace, and what Constant nodes hold."""
    graph = model.graph
    found = {tensor.name: tensor for tensor in graph.initializer}
    if model.ir_version >= 4:
        found = {name: tensor for name, tensor in found.items() if name not in {each.name for each in graph.input}}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD:
            held = next((each.t for each in node.attribute if each.name == "value"), None)
            if held is not None:
                found[node.output[0]] = held
    return found


def _ranks(graph: Any) -> dict[str, int]:
    """How many sides values have, as far as the graph says."""
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for several in (graph.input, graph.value_info, graph.output):
        for value in several:
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return ranks
