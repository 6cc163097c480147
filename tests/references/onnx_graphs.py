"""Small graphs of the kinds that exporters make, and one that has everything that must stay as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def random(*shape: int, seed: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    """Numbers whose rows and columns are of very different sizes, so that no two scales are alike."""
    chance = np.random.default_rng(seed)
    sizes = np.exp(chance.normal(size=(shape[0], *[1] * (len(shape) - 1))))
    return (chance.normal(size=shape) * sizes / np.sqrt(shape[0])).astype(dtype)


def model(
    nodes: list[Any],
    constants: Mapping[str, np.ndarray[Any, Any]],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    dtype: Any = np.float32,
    opset: int = 21,
    ir_version: int = 10,
) -> Any:
    """A model; shapes of inputs and outputs by name."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given, made = (
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in several.items()]
        for several in (inputs, outputs)
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def mlp(dtype: Any = np.float32, **options: Any) -> Any:
    """MatMul, Gemm turned, Gemm not turned; a batch of any size."""
    nodes = [
        helper.make_node("MatMul", ["x", "up.weight"], ["a"], name="up"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "mid.weight", "mid.bias"], ["c"], name="mid", transB=1),
        helper.make_node("Gemm", ["c", "onnx::Gemm_7"], ["y"], name="down"),
    ]
    constants = {
        "up.weight": random(64, 96, seed=1, dtype=dtype),
        "mid.weight": random(128, 96, seed=2, dtype=dtype),
        "mid.bias": random(128, seed=3, dtype=dtype),
        "onnx::Gemm_7": random(128, 32, seed=4, dtype=dtype),
    }
    return model(nodes, constants, {"x": ["batch", 64]}, {"y": ["batch", 32]}, dtype=dtype, **options)


def attention(**options: Any) -> Any:
    """One head over a sequence of any length, queries and keys by one matrix that both share."""
    nodes = [
        helper.make_node("MatMul", ["x", "qk"], ["q"]),
        helper.make_node("Neg", ["x"], ["minus"]),
        helper.make_node("MatMul", ["minus", "qk"], ["k"]),
        helper.make_node("MatMul", ["x", "v"], ["values"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "values"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "o"], ["y"]),
    ]
    constants = {name: random(64, 64, seed=seed) for seed, name in enumerate(("qk", "v", "o"))}
    return model(nodes, constants, {"x": ["batch", "length", 64]}, {"y": ["batch", "length", 64]}, **options)


def tied(**options: Any) -> Any:
    """A matrix that is looked up as well."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["looked"]),
        helper.make_node("Add", ["x", "looked"], ["sum"]),
        helper.make_node("MatMul", ["sum", "table"], ["y"]),
    ]
    constants = {"table": random(64, 64, seed=5), "ids": np.array([3, 1, 2], np.int64)}
    return model(nodes, constants, {"x": [3, 64]}, {"y": [3, 64]}, **options)


def embedded(dtype: Any = np.float32, **options: Any) -> Any:
    """Rows of a vocabulary, which is looked up twice, and of a small table, and a product."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["a"], name="look", axis=0),
        helper.make_node("Gather", ["words", "first"], ["b"]),
        helper.make_node("Gather", ["kinds", "first"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c"], ["sum"]),
        helper.make_node("MatMul", ["sum", "out"], ["y"]),
    ]
    constants = {
        "words": random(4200, 32, seed=11, dtype=dtype),
        "kinds": random(3, 32, seed=12, dtype=dtype),
        "first": np.array([2], np.int64),
        "out": random(32, 32, seed=13, dtype=dtype),
    }
    made = model(nodes, constants, {}, {"y": ["batch", "length", 32]}, dtype=dtype, **options)
    made.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]))
    return made


def convolved(dtype: Any = np.float32, **options: Any) -> Any:
    """Filters with strides, one per group of channels and one along a line, and a product behind them."""
    nodes = [
        helper.make_node("Conv", ["x", "stem", "stem.bias"], ["a"], name="stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "depth"], ["b"], name="depth", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["b"], ["c"], axis=1),
        helper.make_node("Gemm", ["c", "head"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "one"], ["e"]),
        helper.make_node("Conv", ["e", "line"], ["y"]),
    ]
    constants = {
        "stem": random(8, 4, 4, 4, seed=14, dtype=dtype),
        "stem.bias": random(8, seed=15, dtype=dtype),
        "depth": random(8, 1, 3, 3, seed=16, dtype=dtype),
        "head": random(128, 32, seed=17, dtype=dtype),
        "one": np.array([1], np.int64),
        "line": random(2, 1, 3, seed=18, dtype=dtype),
    }
    return model(nodes, constants, {"x": ["batch", 4, 8, 8]}, {"y": ["batch", 2, 30]}, dtype=dtype, **options)


def branches(**options: Any) -> Any:
    """Products inside of If and of Loop, with matrices from outside, and one that a branch has for itself."""
    own = numpy_helper.from_array(random(64, 64, seed=8), "own")

    def branch(name: str, weight: str, tensors: list[Any]) -> Any:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", weight], [f"{name}_out"], name=name)
        return helper.make_graph([node], name, [], [out], tensors)

    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "shared"], ["next"]),
            helper.make_node("Identity", ["go"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["chosen"],
            then_branch=branch("then", "shared", []),
            else_branch=branch("otherwise", "own", [own]),
        ),
        helper.make_node("Loop", ["turns", "", "chosen"], ["y"], body=body),
    ]
    constants = {
        "shared": random(64, 64, seed=6),
        "zero": np.zeros((), np.float32),
        "turns": np.array(2, np.int64),
    }
    return model(nodes, constants, {"x": ["batch", 64]}, {"y": ["batch", 64]}, **options)


def furnished(**options: Any) -> Any:
    """Everything that a graph can have beside its products: constants of all kinds, metadata, texts, annotations."""
    made = mlp(**options)
    made.producer_name, made.producer_version, made.doc_string, made.model_version = "maker", "1.2", "words", 7
    helper.set_model_props(made, {"author": "somebody", "labels": "a,b"})
    graph = made.graph
    graph.doc_string = "more words"
    graph.node[0].doc_string = "about a product"
    graph.node[0].metadata_props.add(key="namespace", value="/up")
    graph.initializer.append(helper.make_tensor("floats", TensorProto.FLOAT, [40], list(np.linspace(-1, 1, 40))))
    graph.initializer.append(helper.make_tensor("halves", TensorProto.FLOAT16, [3], [0.5, -1.0, 2.0]))
    graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"one", b"two"]))
    graph.initializer.append(numpy_helper.from_array(np.arange(100, dtype=np.int64), "numbers"))
    graph.initializer.append(numpy_helper.from_array(np.array([-np.inf, np.nan] * 20, np.float32), "mask"))
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 96]))
    constant = numpy_helper.from_array(np.linspace(0, 1, 32, dtype=np.float32), "constant")
    graph.node.append(helper.make_node("Constant", [], ["held"], value=constant))
    graph.node.append(helper.make_node("Add", ["y", "held"], ["z"], name="last"))
    graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 32]))
    made.opset_import.add(domain="ai.onnx.ml", version=3)
    return made


GRAPHS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "mlp": mlp,
        "attention": attention,
        "tied": tied,
        "branches": branches,
        "furnished": furnished,
        "embedded": embedded,
        "convolved": convolved,
    }
)


def inputs_of(made: Any, seed: int = 9) -> dict[str, np.ndarray[Any, Any]]:
    """Numbers for the inputs of a model; sides of any length become 5."""
    given = {}
    for number, value in enumerate(made.graph.input):
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [side.dim_value or 5 for side in value.type.tensor_type.shape.dim]
        if np.issubdtype(kind, np.integer):
            given[value.name] = np.random.default_rng(seed + number).integers(0, 4200, shape)
        else:
            given[value.name] = random(*shape, seed=seed + number, dtype=kind)
    return given


def save_outside(made: Any, path: Path, threshold: int = 0) -> None:
    """Save a model with its constants in a file beside it."""
    onnx.save_model(made, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=threshold)
