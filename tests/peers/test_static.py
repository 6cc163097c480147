"""ONNX Runtime runs our graphs in whole numbers: within one step on 99.9% of the outputs, by kernels for codes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("onnxruntime")

import onnxruntime

from fewbits import static
from static.networks import Branches, Encoder, Perceptron, drawn, images


def ran(path: Path, x: torch.Tensor) -> tuple[list[np.ndarray[Any, Any]], Counter[str]]:
    """Outputs, and the kinds of nodes that ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    optimized = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = made.run(None, {made.get_inputs()[0].name: x.numpy()})
    return found, Counter(node.op_type for node in onnx.load(optimized).graph.node)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("branches", {}),
    ("branches", {"weights": "tensor"}),
    ("branches", {"weight_bits": 7}),
    ("branches", {"activation": "int8", "symmetric": True}),
    ("perceptron", {"activation": "int8"}),
    ("encoder", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_outputs_agree(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = {
        "branches": lambda: drawn(Branches()),
        "perceptron": lambda: drawn(Perceptron()),
        "encoder": lambda: Encoder().eval(),
    }[name]()
    draw = {
        "branches": images,
        "perceptron": lambda n: torch.randn(n, 12, generator=torch.Generator().manual_seed(n)),
        "encoder": lambda n: torch.randint(0, 40, (n, 6), generator=torch.Generator().manual_seed(n)),
    }[name]
    quantized = static.quantize(network, draw(64).split(32), **options)
    x = draw(400)

    found, nodes = ran(static.to_onnx(quantized, tmp_path / "a.onnx"), x)

    with torch.no_grad():
        answers = quantized(x)
    wanted = list(answers.values()) if isinstance(answers, dict) else [answers]
    for one, other in zip(found, wanted, strict=True):
        step = float(other.max() - other.min()) / 255
        assert (np.abs(one - other.numpy()) <= step).mean() >= 0.999
    assert nodes["Conv"] == nodes["FusedConv"] == nodes["Gemm"] == 0
    if name == "branches":
        assert nodes["QLinearConv"] == 5
        assert nodes["QLinearAdd"] == 1
        assert nodes["QLinearConcat"] == 1
        assert nodes["QuantizeLinear"] == 1
