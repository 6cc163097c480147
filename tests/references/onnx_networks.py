"""Small networks as ONNX graphs: a convolutional one with everything that integers go through, recurrent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from references.onnx_graphs import model, random


def residual(opset: int = 17, **options: Any) -> Any:
    """Filters with normalizations, Relu and Clip, a residual sum, MaxPool, Concat, GlobalAveragePool, Flatten, Gemm."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "stem", "stem.bias"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "n.g", "n.b", "n.m", "n.v"], ["b"], epsilon=0.01),
        node("Clip", ["b", "zero", "six"], ["c"]),
        node("Conv", ["c", "one"], ["d"], name="one", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["d", "m.g", "m.b", "m.m", "m.v"], ["e"]),
        node("Relu", ["e"], ["f"]),
        node("Conv", ["f", "depth", "depth.bias"], ["g"], name="depth", pads=[1, 1, 1, 1], group=8),
        node("Add", ["c", "g"], ["h"]),
        node("Relu", ["h"], ["i"]),
        node("MaxPool", ["i"], ["j"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["j", "side", "side.bias"], ["k"], name="side"),
        node("Concat", ["j", "k"], ["l"], axis=1),
        node("GlobalAveragePool", ["l"], ["m"]),
        node("Flatten", ["m"], ["o"]),
        node("Gemm", ["o", "head", "head.bias"], ["y"], name="head", transB=1),
    ]
    chance = np.random.default_rng(7)
    constants = {
        "stem": random(8, 3, 3, 3, seed=1),
        "stem.bias": random(8, seed=2),
        "one": random(8, 8, 3, 3, seed=3),
        "depth": random(8, 1, 3, 3, seed=4),
        "depth.bias": random(8, seed=5),
        "side": random(4, 8, 1, 1, seed=6),
        "side.bias": random(4, seed=7),
        "head": random(10, 12, seed=8),
        "head.bias": random(10, seed=9),
        "zero": np.zeros((), np.float32),
        "six": np.array(6, np.float32),
    }
    for name in "nm":
        constants |= {
            f"{name}.g": chance.uniform(0.5, 2, 8).astype(np.float32),
            f"{name}.b": chance.normal(size=8).astype(np.float32),
            f"{name}.m": chance.normal(size=8).astype(np.float32),
            f"{name}.v": chance.uniform(0.5, 2, 8).astype(np.float32),
        }
    sides = ["batch", 3, 8, 8]
    return model(nodes, constants, {"x": sides}, {"y": ["batch", 10]}, opset=opset, ir_version=8, **options)


def recurrent(kind: str, opset: int = 17) -> Any:
    """A vocabulary, a layer that reads both ways, and a product behind it."""
    gates = {"LSTM": 4, "GRU": 3}[kind]
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["x"], name="look"),
        helper.make_node(
            kind, ["x", "w", "r", "b"], ["states", "last"], name="layer", hidden_size=16, direction="bidirectional"
        ),
        helper.make_node("Squeeze", ["pooled", "first"], ["p"]),
        helper.make_node("MatMul", ["p", "out"], ["y"], name="out"),
    ]
    nodes.insert(2, helper.make_node("ReduceMean", ["states"], ["pooled"], axes=[1], keepdims=1))
    constants = {
        "words": random(4200, 12, seed=1),
        "w": 0.3 * random(2, 16 * gates, 12, seed=2),
        "r": 0.3 * random(2, 16 * gates, 16, seed=3),
        "b": random(2, 32 * gates, seed=4),
        "first": np.array([1], np.int64),
        "out": random(16, 8, seed=5),
    }
    made = model(nodes, constants, {}, {"y": ["length", "batch", 8]}, opset=opset, ir_version=8)
    made.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["length", "batch"]))
    return made


def replaced(made: Any, name: str, change: Any) -> Any:
    """The same model with another constant `name`."""
    for tensor in made.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))
    return made
