"""Graphs of QuantizeLinear and DequantizeLinear: the onnx package's own evaluator gets what the torch module gets."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from fewbits import static
from fewbits.errors import StaticError
from static.networks import Attention, drawn, images, odd


def differing(model: static.StaticModule, path: Path, x: torch.Tensor) -> float:
    """The share of the outputs' elements that differ by more than a step: 1/255 of what an output spans."""
    static.to_onnx(model, path)
    made = onnx.load(path)
    found = ReferenceEvaluator(made).run(None, {made.graph.input[0].name: x.numpy()})
    with torch.no_grad():
        answers = model(x)
    wanted = list(answers.values()) if isinstance(answers, dict) else [answers]
    apart = [np.abs(a - b.numpy()) > float(b.max() - b.min()) / 255 for a, b in zip(found, wanted, strict=True)]
    return float(np.concatenate([each.ravel() for each in apart]).mean())


def test_convolutions(branches_codes: static.StaticModule, tmp_path: Path) -> None:
    assert differing(branches_codes, tmp_path / "a.onnx", images(12, seed=5)) <= 0.001

    made = onnx.load(tmp_path / "a.onnx")
    nodes = [node.op_type for node in made.graph.node]
    assert nodes.count("Conv") == 5
    assert nodes.count("QuantizeLinear") == 1 + 5 + 1 + 1 + 2  # image, convolutions, sum, concatenation, means
    assert made.opset_import[0].version == 19
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_linear_layers(perceptron_codes: static.StaticModule, tmp_path: Path) -> None:
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(6))

    assert differing(perceptron_codes, tmp_path / "a.onnx", x) <= 0.001


def test_a_transformer(encoder_codes: static.StaticModule, tmp_path: Path) -> None:
    ids = torch.randint(0, 40, (20, 6), generator=torch.Generator().manual_seed(6))

    assert differing(encoder_codes, tmp_path / "a.onnx", ids) <= 0.001


def test_what_stays_in_float_is_written_too(tmp_path: Path) -> None:
    found = static.quantize(drawn(odd()), images(64).split(32))
    assert [layer.kept for layer in found.record.layers] == [""] * 4
    assert differing(found, tmp_path / "odd.onnx", images(20, seed=5)) <= 0.001

    x = torch.randn(64, 5, 16, generator=torch.Generator().manual_seed(6))
    found = static.quantize(drawn(Attention()), x.split(32))
    assert [layer.name for layer in found.record.layers] == ["query", "key", "value", "out"]
    assert differing(found, tmp_path / "attention.onnx", x[:20] * 0.9) <= 0.001


def test_a_full_disk_leaves_what_was_there(
    branches_codes: static.StaticModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.onnx"
    path.write_bytes(b"kept")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StaticError, match="No space left on device"):
        static.to_onnx(branches_codes, path, force=True)
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_requests(branches_codes: static.StaticModule, branches: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"kept")
    with pytest.raises(StaticError, match="exists; pass force=True"):
        static.to_onnx(branches_codes, path)
    with pytest.raises(StaticError, match="no directory to write"):
        static.to_onnx(branches_codes, tmp_path / "missing" / "a.onnx")
    with pytest.raises(StaticError, match="it got a Branches"):
        static.to_onnx(branches, path, force=True)  # type: ignore[arg-type]
    assert path.read_bytes() == b"kept"

    static.to_onnx(branches_codes, path, force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_what_has_no_translation_is_named(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Mish())
    found = static.quantize(network, [torch.randn(3, 4), torch.randn(3, 4)])

    with pytest.raises(StaticError, match=r"aten.mish.default .* has no translation to ONNX"):
        static.to_onnx(found, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
