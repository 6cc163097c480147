"""A checkpoint's listed experts become stacks, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.checkpoints.base import Placement, StackedTensor, StoredTensor
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.errors import CheckpointError, VerificationError
from fewbits.evaluation.model_files import open_model
from references.expert_models import write_experts

FIRST = "model.layers.0.block_sparse_moe.experts.1.w1.weight"


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    return write_experts(tmp_path / "model")


def edit(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, model / "model.safetensors")


@given(rows=st.integers(1, 5), experts=st.integers(1, 4), data=st.data())
def test_rows_of_a_stack_are_those_of_its_experts(rows: int, experts: int, data: st.DataObject) -> None:
    whole = np.arange(experts * rows * 3 * 4, dtype=np.uint8)
    parts = [StoredTensor(f"{n}", "F32", (rows, 3), each) for n, each in enumerate(np.split(whole, experts))]
    stack = StackedTensor.of("all", parts)
    start = data.draw(st.integers(0, stack.rows))
    stop = data.draw(st.integers(start, stack.rows))

    assert (stack.rows, stack.cols, stack.bytes, stack.row_bytes) == (experts * rows, 3, whole.size, 12)
    assert np.array_equal(stack.slab(start, stop), whole.reshape(-1, 12)[start:stop])


def test_experts_are_stacked_in_their_order(mixtral: Path) -> None:
    placed = {p.name: p for p in convert_directory(mixtral).placements}
    stored = load_file(mixtral / "model.safetensors")

    for target, part in (("ffn_gate_exps", "w1"), ("ffn_up_exps", "w3"), ("ffn_down_exps", "w2")):
        source = placed[f"blk.1.{target}.weight"].source
        listed = [stored[f"model.layers.1.block_sparse_moe.experts.{n}.{part}.weight"] for n in range(4)]
        expected = torch.stack(listed).view(torch.uint8).reshape(source.rows, -1)
        assert source.shape == (4, *listed[0].shape)
        assert np.array_equal(source.slab(0, source.rows), expected.numpy())


def test_both_names_of_their_number_are_read(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "model", "qwen3_moe")
    stated = json.loads((model / "config.json").read_text())
    assert stated.pop("num_local_experts") == 8

    (model / "config.json").write_text(json.dumps({**stated, "num_experts": 8}))

    assert convert_directory(model).metadata["qwen3moe.expert_count"].value == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST), r"no tensor .*experts\.1\.w1.* 4 experts"),
        (lambda t: t.update({FIRST: t[FIRST][:-1]}), r"experts\.1\.w1.*\[95, 64\].*first expert"),
        (lambda t: t.update({FIRST: t[FIRST].float()}), r"experts\.1\.w1.*F32.*first expert"),
    ],
)
def test_what_is_no_whole_stack_is_refused(mixtral: Path, change: Callable[[Any], Any], message: str) -> None:
    edit(mixtral, change)

    with pytest.raises(CheckpointError, match=message):
        convert_directory(mixtral)


@pytest.mark.parametrize("value", [0, -1, "four"])
def test_an_impossible_number_of_experts_is_refused(mixtral: Path, value: object) -> None:
    stated = json.loads((mixtral / "config.json").read_text())
    (mixtral / "config.json").write_text(json.dumps({**stated, "num_local_experts": value}))

    with pytest.raises(CheckpointError, match="num_local_experts"):
        convert_directory(mixtral)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_a_file_computes_what_the_directory_does(kind: str, tmp_path: Path) -> None:
    model = write_experts(tmp_path / "model", kind)
    fewbits.quantize(model, tmp_path / "o.gguf", to="BF16")
    ids = torch.arange(5, 45)

    with torch.inference_mode():
        expected, found = (open_model(path).load().logits(ids) for path in (model, tmp_path / "o.gguf"))

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_swapped_experts_are_seen(mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slab = Placement.slab

    def swapped(placement: Placement, start: int, stop: int) -> Any:
        if isinstance(placement.source, StackedTensor):
            parts = placement.source.parts
            placement = Placement(placement.name, StackedTensor.of("all", [parts[1], parts[0], *parts[2:]]))
        return slab(placement, start, stop)

    monkeypatch.setattr(Placement, "slab", swapped)

    with pytest.raises(VerificationError, match=r"blk\.0\.ffn_\w+_exps"):
        fewbits.quantize(mixtral, tmp_path / "o.gguf", to="Q8_0")
    assert not (tmp_path / "o.gguf").exists()
