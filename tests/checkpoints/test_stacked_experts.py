"""Checkpoints with stacked experts, latent keys, and more than a language model: read, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.derived import PartTensor
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.cli.main import main
from fewbits.errors import CheckpointError, EvaluationError
from fewbits.models import View
from references.architecture_models import deepseek_v2, deepseek_v3, gpt_oss, llama4, seeing_llama4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = (gpt_oss, llama4, deepseek_v2, deepseek_v3)
    return {make.__name__: make(folder / make.__name__) for make in made}


def changed(
    source: Path,
    target: Path,
    config: dict[str, Any] | None = None,
    edit: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
) -> Path:
    """A copy of a model with other values in its configuration and other tensors."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    stated = {**json.loads((source / "config.json").read_text()), **(config or {})}
    (target / "config.json").write_text(json.dumps({k: v for k, v in stated.items() if v != "absent"}))
    tensors = load_file(source / "model.safetensors")
    edit(tensors)
    save_file({name: w.contiguous() for name, w in tensors.items()}, target / "model.safetensors", {"format": "pt"})
    return target


def refused(model: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, in one sentence, before it ends with 2 and leaves nothing."""
    output = model.parent / "out.gguf"
    assert main(["quantize", str(model), "-o", str(output), "--to", "Q8_0", "-q"]) == 2
    assert not list(model.parent.glob("*out*"))
    return " ".join(capsys.readouterr().err.split())


WRONG = [
    ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit = 5.0"),
    ("gpt_oss", {"layer_types": ["full_attention"] * 2}, "layer_types"),
    ("gpt_oss", {"attention_bias": False}, "attention_bias"),
    ("gpt_oss", {"num_local_experts": 9}, "has shape [8"),
    ("gpt_oss", {"intermediate_size": 48}, "has shape [8"),
    ("llama4", {"no_rope_layers": [1, 1, 0, 1]}, "no_rope_layers"),
    ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size = 4096"),
    ("llama4", {"attention_chunk_size": None}, "attention_chunk_size"),
    ("llama4", {"moe_layers": [0, 1]}, "moe_layers"),
    ("llama4", {"use_qk_norm": False}, "with True where num_local_experts = 8"),
    ("llama4", {"interleave_moe_layer_step": 0, "moe_layers": None}, "interleave_moe_layer_step"),
    ("deepseek_v2", {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}, "topk_method"),
    ("deepseek_v2", {"q_lora_rank": None}, "has no q_lora_rank and 3 layers"),
    ("deepseek_v2", {"first_k_dense_replace": -1}, "first_k_dense_replace = -1"),
    ("deepseek_v2", {"kv_lora_rank": 31}, "has shape [40, 64]"),
    ("deepseek_v2", {"v_head_dim": "wide"}, "v_head_dim"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func"),
    ("deepseek_v3", {"rope_interleave": False}, "rope_interleave"),
]


@pytest.mark.parametrize(("name", "config", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    name: str,
    config: dict[str, Any],
    said: str,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refused(changed(models[name], tmp_path / "model", config), capsys)


def test_yarn_that_multiplies_otherwise_is_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rope = json.loads((models["deepseek_v3"] / "config.json").read_text())["rope_parameters"]
    for number, (changes, said) in enumerate(
        [({"mscale": 0.5}, "mscale = 0.5"), ({"mscale_all_dim": None}, "mscale_all_dim")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = {"rope_parameters": {**rope, **changes}}
        assert said in refused(changed(models["deepseek_v3"], folder / "model", config), capsys)


MISSING = [
    ("gpt_oss", "model.layers.1.self_attn.sinks"),
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias"),
    ("llama4", "model.layers.1.feed_forward.experts.down_proj"),
    ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight"),
    ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
    ("deepseek_v3", "model.layers.2.mlp.experts.5.up_proj.weight"),
]


@pytest.mark.parametrize(("name", "tensor"), MISSING)
def test_what_is_missing_is_named(
    name: str, tensor: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[tensor]

    said = refused(changed(models[name], tmp_path / "model", edit=remove), capsys)
    assert tensor in said
    assert "incomplete" in said


def test_experts_of_another_shape_are_named(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def turn(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.layers.1.feed_forward.experts.gate_up_proj"
        tensors[name] = tensors[name].mT

    said = refused(changed(models["llama4"], tmp_path / "model", edit=turn), capsys)
    assert "gate_up_proj" in said
    assert "[8, 64, 192]" in said


def test_layers_that_guess_further_ahead_are_left_out(models: dict[str, Path], tmp_path: Path) -> None:
    def append(tensors: dict[str, torch.Tensor]) -> None:
        behind = {n.replace("layers.2.", "layers.3."): w.clone() for n, w in tensors.items() if "layers.2." in n}
        tensors |= {**behind, "model.layers.3.eh_proj.weight": torch.ones(64, 128)}

    config = {"num_nextn_predict_layers": 1}
    model = changed(models["deepseek_v3"], tmp_path / "model", config, append)
    record: Any = fewbits.quantize(model, tmp_path / "q.gguf", to="Q8_0")
    plain: Any = fewbits.quantize(models["deepseek_v3"], tmp_path / "plain.gguf", to="Q8_0")
    assert [note for note in record.preview.notes if "guess further tokens ahead" in note and "tensors)" in note]
    assert {t.planned.name for t in record.tensors} == {t.planned.name for t in plain.tensors}


def test_of_a_model_that_sees_the_language_model_is_taken(tmp_path: Path) -> None:
    whole, alone = seeing_llama4(tmp_path)
    found, expected = convert_directory(whole), convert_directory(alone)
    assert {p.name: p.slab(0, p.source.rows).tobytes() for p in found.placements} == {
        p.name: p.slab(0, p.source.rows).tobytes() for p in expected.placements
    }
    assert {k: v for k, v in found.metadata.items() if k != "general.name"} == {
        k: v for k, v in expected.metadata.items() if k != "general.name"
    }
    assert [note for note in found.notes if "what sees" in note]
    record: Any = fewbits.quantize(whole, tmp_path / "q.gguf", to="Q8_0")
    assert [note for note in record.preview.notes if "brings pictures" in note]
    with pytest.raises(EvaluationError, match=r"make a GGUF file of it first"):
        fewbits.quantize(whole, tmp_path / "walked.gguf", to="Q4_0", method="gptq")


def test_of_a_model_that_sees_nothing_is_left_out_in_silence(tmp_path: Path) -> None:
    whole, _ = seeing_llama4(tmp_path)
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({**config, "text_config": None}))
    with pytest.raises(CheckpointError, match="has no text_config"):
        convert_directory(whole)


def test_bounds_of_yarn_that_llama_cpp_rounds_are_said(models: dict[str, Path], tmp_path: Path) -> None:
    rope = json.loads((models["gpt_oss"] / "config.json").read_text())["rope_parameters"]
    model = changed(models["gpt_oss"], tmp_path / "model", {"rope_parameters": {**rope, "truncate": False}})
    assert [note for note in convert_directory(model).notes if "truncate = false" in note]
    assert not [note for note in convert_directory(models["gpt_oss"]).notes if "truncate" in note]


def test_metadata_are_those_that_llama_cpp_reads(models: dict[str, Path]) -> None:
    """Attention on latent keys is stated as one head of keys, and by the heads that it stands for."""
    metadata = convert_directory(models["deepseek_v3"]).metadata
    stated = {key.removeprefix("deepseek2."): value.value for key, value in metadata.items()}
    wanted = {
        "attention.head_count_kv": 1,
        "attention.key_length": 40,
        "attention.value_length": 32,
        "attention.key_length_mla": 24,
        "attention.value_length_mla": 24,
        "attention.kv_lora_rank": 32,
        "attention.q_lora_rank": 24,
        "rope.dimension_count": 8,
        "leading_dense_block_count": 1,
        "expert_gating_func": 2,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.25,
        "expert_shared_count": 1,
    }
    assert {key: stated[key] for key in wanted} == wanted
    assert stated["rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)


VIEWS = [
    (View((3, 4, 10), (slice(0, 3), slice(0, 4), slice(1, 10, 2)), turned=True), lambda w: w[:, :, 1::2].mT),
    (View((3, 4, 10), (slice(0, 3), slice(0, 4), slice(0, 5)), turned=True), lambda w: w[:, :, :5].mT),
    (View((3, 10, 4), (slice(0, 3), slice(1, 10, 2), slice(0, 4))), lambda w: w[:, 1::2]),
    (View((3, 10, 4), (slice(0, 3), slice(0, 6), slice(0, 4)), turned=True, merged=True), lambda w: w[:, :6].mT),
    (View((3, 10, 4), (slice(0, 3), slice(6, 10), slice(0, 4)), merged=True), lambda w: w[:, 6:]),
    (View((3, 10), (slice(0, 3), slice(1, 10, 2))), lambda w: w[:, 1::2]),
]


@pytest.mark.parametrize(("view", "expected"), VIEWS)
@pytest.mark.parametrize("kind", [("F32", torch.float32), ("F16", torch.float16)])
def test_parts_are_cut_out_slab_by_slab(
    view: View, expected: Callable[[torch.Tensor], torch.Tensor], kind: tuple[str, torch.dtype]
) -> None:
    whole = torch.randn(view.shape, generator=torch.Generator().manual_seed(0)).to(kind[1])
    stored = StoredTensor("w", kind[0], view.stored, whole.numpy().reshape(-1).view(np.uint8))
    part, wanted = PartTensor.of(stored, view), expected(whole).contiguous()
    assert part.shape == tuple(wanted.shape) == view.taken
    assert part.bytes == wanted.nbytes
    rows = wanted.reshape(-1, wanted.shape[-1]).numpy().view(np.uint8)
    for start in range(part.rows):
        for stop in range(start, part.rows + 1):
            assert np.array_equal(part.slab(start, stop), rows[start:stop])
    back = np.zeros(view.stored, wanted.numpy().dtype)
    view.put(back, wanted.numpy())
    assert np.array_equal(expected(torch.from_numpy(back).reshape(view.shape)), wanted)
    assert np.count_nonzero(back) == wanted.numel()
