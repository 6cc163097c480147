"""gpt-oss as its makers give it away, experts in MXFP4: into a GGUF file bit by bit, nothing rounded a second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.checkpoints.derived import PartTensor
from fewbits.errors import CheckpointError, VerificationError
from fewbits.evaluation.gguf_model import GGUFModel
from references.architecture_models import gpt_oss

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def numbers(blocks: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """(experts, rows, cols), one number after another."""
    low, high = blocks.numpy() & 15, blocks.numpy() >> 4
    codes = np.stack([low, high], -1).reshape(*blocks.shape[:3], 32)
    found = VALUES[codes] * 2.0 ** (scales.numpy().astype(np.float64)[..., None] - 127)
    return found.reshape(*blocks.shape[:2], -1).astype(np.float32)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small model whose experts are random codes."""
    model, drawn = gpt_oss(tmp_path / "model"), torch.Generator().manual_seed(3)
    tensors, weights = {}, model / "model.safetensors"
    for name, tensor in load_file(weights).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = tensor.bfloat16()
            continue
        experts, cols, rows = tensor.shape
        shape = (experts, rows, cols // 32)
        tensors[f"{name}_blocks"] = torch.randint(256, (*shape, 16), generator=drawn, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, generator=drawn, dtype=torch.uint8)
    save_file(tensors, weights, {"format": "pt"})
    path = model / "config.json"
    stated = {**json.loads(path.read_text()), "quantization_config": {"quant_method": "mxfp4"}}
    path.write_text(json.dumps(stated))
    return model


def test_every_code_goes_where_llama_cpp_reads_it(directory: Path, tmp_path: Path) -> None:
    record: Any = fewbits.convert(directory, tmp_path / "q.gguf")
    source = load_file(directory / "model.safetensors")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert all(t.relative_rms == 0 for t in record.tensors)
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate_up, down = (
            numbers(source[f"{prefix}.{n}_blocks"], source[f"{prefix}.{n}_scales"])
            for n in ("gate_up_proj", "down_proj")
        )
        for name, wanted in {"gate": gate_up[:, ::2], "up": gate_up[:, 1::2], "down": down}.items():
            found = stored[f"blk.{layer}.ffn_{name}_exps.weight"]
            assert found.tensor_type.name == "MXFP4"
            assert np.array_equal(gguf.quants.dequantize(found.data, found.tensor_type), wanted)
    GGUFModel.open(tmp_path / "q.gguf").load()


def test_rows_of_up_in_the_place_of_gate_are_found(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PartTensor.slab
    monkeypatch.setattr(PartTensor, "slab", lambda self, start, stop: np.roll(right(self, start, stop), 1, 0))
    with pytest.raises(VerificationError):
        fewbits.convert(directory, tmp_path / "q.gguf")
    assert not (tmp_path / "q.gguf").exists()


def test_a_second_rounding_is_refused_and_the_way_out_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"already quantized \(mxfp4\).* never a second rounding.*`fewbits convert`"
    ):
        fewbits.quantize(directory, tmp_path / "q.gguf", to="Q4_K_M")


@pytest.mark.parametrize("part", ["scales", "blocks"])
def test_what_is_missing_or_misshapen_is_named(part: str, directory: Path, tmp_path: Path) -> None:
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    name = f"model.layers.1.mlp.experts.down_proj_{part}"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"down_proj"):
        fewbits.convert(directory, tmp_path / "q.gguf")
    assert not (tmp_path / "q.gguf").exists()


def test_no_directory_is_written_of_it(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="experts"):
        fewbits.convert(directory, tmp_path / "other", dialect="compressed-tensors")
