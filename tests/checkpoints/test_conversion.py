"""A Hugging Face directory seen as a GGUF file: what is placed where, what is said, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.opening import open_source
from fewbits.errors import CheckpointError
from references.conversion_file import weights, write_f16
from references.random_models import byte_level_tokenizer, save_byte_level, save_model, small_config

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


@pytest.fixture
def pocket(tmp_path: Path) -> Path:
    return Path(shutil.copytree(POCKET, tmp_path / "pocket"))


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


def test_pocket_is_placed_completely() -> None:
    conversion = convert_directory(POCKET)
    assert conversion.architecture == "llama"
    assert conversion.notes == ()
    assert len(conversion.placements) == 1 + 4 * 9 + 1
    source = load_file(POCKET / "model.safetensors")
    assert {p.source.name for p in conversion.placements} == set(source)
    for placement in conversion.placements:
        w = source[placement.source.name].float().numpy()
        rows = w.reshape(placement.source.rows, -1)
        assert np.array_equal(
            weights(placement).reshape(rows.shape), rows if placement.order is None else rows[placement.order]
        )
        assert (placement.order is not None) == placement.name.endswith(("attn_q.weight", "attn_k.weight"))
    assert [f.name for f in conversion.files] == [
        "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"
    ]  # fmt: skip


def test_pocket_metadata() -> None:
    found = {key: value.value for key, value in convert_directory(POCKET).metadata.items()}
    assert found["general.name"] == "pocket-llama"
    assert found["llama.block_count"] == 4
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.freq_base"] == 10000.0
    assert found["llama.attention.key_length"] == found["llama.attention.value_length"] == 64
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert not {"general.architecture", "general.file_type", "general.quantization_version"} & set(found)


def test_both_spellings_of_rope_are_one(pocket: Path) -> None:
    new = convert_directory(pocket).metadata
    edit_config(pocket, rope_parameters=..., rope_theta=10000.0, rope_scaling=None)
    assert convert_directory(pocket).metadata == new
    edit_config(pocket, rope_scaling={"type": "linear", "factor": 2.0})
    assert convert_directory(pocket).metadata["llama.rope.scaling.factor"].value == 2.0


def test_a_stored_head_of_a_tied_model_is_left_out_and_said(pocket: Path) -> None:
    edit_tensors(pocket, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    conversion = convert_directory(pocket)
    assert "output.weight" not in {p.name for p in conversion.placements}
    assert any("lm_head.weight is left out" in note for note in conversion.notes)


def test_saved_rope_frequencies_are_left_out_and_said(pocket: Path) -> None:
    edit_tensors(pocket, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(32)}))
    assert any("inv_freq is left out" in note for note in convert_directory(pocket).notes)


def test_rows_without_tokens_are_padded_and_said(pocket: Path) -> None:
    edit_config(pocket, vocab_size=4100)
    edit_tensors(pocket, lambda t: t.update({"model.embed_tokens.weight": torch.ones(4100, 256)}))
    conversion = convert_directory(pocket)
    tokens = conversion.metadata["tokenizer.ggml.tokens"].value
    assert tokens[4096:] == ["[PAD4096]", "[PAD4097]", "[PAD4098]", "[PAD4099]"]
    assert conversion.metadata["tokenizer.ggml.token_type"].value[4095:] == [1, 5, 5, 5, 5]
    assert any("4 rows" in note for note in conversion.notes)


def test_a_window_is_left_out_and_said(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    save_byte_level(tmp_path, tokenizer)
    save_model(tmp_path, small_config(transformers.MistralConfig, rows=tokenizer.get_vocab_size(), sliding_window=100))
    assert any("window of 100 tokens" in note for note in convert_directory(tmp_path).notes)
    edit_config(tmp_path, sliding_window=None)
    assert convert_directory(tmp_path).notes == ()


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


NORM, GATE = "model.norm.weight", "model.layers.1.mlp.gate_proj.weight"

TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop(GATE), f"no tensor '{GATE}'"),
    "unexpected": (lambda t: t.update({"model.extra.weight": torch.ones(3)}), "holds the tensor 'model.extra.weight'"),
    "unexpected_bias": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(256)}),
        "q_proj.bias', which a LlamaForCausalLM",
    ),
    "layer_too_many": (lambda t: rename(t, GATE, GATE.replace("1", "9")), "layers.9.mlp"),
    "other_spelling": (lambda t: rename(t, NORM, "norm.weight"), "holds the tensor 'norm.weight'"),
    "wrong_shape": (lambda t: t.update({GATE: torch.ones(256, 768)}), r"has shape \[256, 768\]"),
    "flat": (lambda t: t.update({GATE: torch.ones(256 * 768)}), "has shape"),
    "float64": (lambda t: t.update({NORM: torch.ones(256, dtype=torch.float64)}), "stored as F64"),
    "int8": (lambda t: t.update({GATE: torch.ones(768, 256, dtype=torch.int8)}), "stored as I8"),
}


@pytest.mark.parametrize(("change", "saying"), TENSORS.values(), ids=TENSORS)
def test_other_tensors_are_refused_by_name(change: Callable[..., Any], saying: str, pocket: Path) -> None:
    edit_tensors(pocket, change)
    with pytest.raises(CheckpointError, match=saying):
        convert_directory(pocket)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported"),
    "no_architecture": ({"architectures": ...}, "names no architecture"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "already quantized .gptq."),
    "activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    "no_layers": ({"num_hidden_layers": ...}, "num_hidden_layers = None"),
    "zero_layers": ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    "negative": ({"hidden_size": -256}, "hidden_size = -256"),
    "text": ({"hidden_size": "256"}, "hidden_size = '256'"),
    "boolean": ({"num_attention_heads": True}, "num_attention_heads = True"),
    "layer_bomb": ({"num_hidden_layers": 2**31 - 1}, "2147483647 layers"),
    "count_bomb": ({"num_hidden_layers": 2**60}, "num_hidden_layers = 1152921504606846976"),
    "uneven_heads": ({"num_key_value_heads": 3}, "no multiple of its 3"),
    "odd_head": ({"head_dim": 63}, "odd width 63"),
    "epsilon": ({"rms_norm_eps": None}, "rms_norm_eps = None"),
    "epsilon_bomb": ({"rms_norm_eps": 1e300}, "rms_norm_eps"),
    "theta": ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta = 'big'"),
    "rope_by_layer": ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ by layer"),
    "rope_is_a_list": ({"rope_parameters": [1]}, "differ by layer"),
    "untied": ({"tie_word_embeddings": False}, "no tensor 'lm_head.weight'"),
    "small_vocabulary": ({"vocab_size": 4000}, "has shape"),
}


@pytest.mark.parametrize(("changes", "saying"), CONFIGS.values(), ids=CONFIGS)
def test_other_configurations_are_refused(changes: dict[str, Any], saying: str, pocket: Path) -> None:
    edit_config(pocket, **changes)
    with pytest.raises(CheckpointError, match=saying):
        convert_directory(pocket)


def test_an_unquantized_gguf_is_a_source_as_it_stands(tmp_path: Path) -> None:
    first = open_source(str(POCKET))
    file = write_f16(first, tmp_path / "pocket.gguf")
    second = open_source(str(file))
    assert second.architecture == "llama"
    assert second.metadata == dict(first.metadata)
    assert second.files == (file,)
    assert [p.name for p in second.placements] == [p.name for p in first.placements]
    for a, b in zip(first.placements, second.placements, strict=True):
        assert b.order is None
        rows = a.source.rows
        found, expected = weights(b).reshape(rows, -1), weights(a).reshape(rows, -1)
        rounded = expected.astype(np.float16).astype(np.float32) if found.shape[1] > 1 else expected
        assert np.array_equal(found, rounded)


def test_reading_loads_no_heavy_package() -> None:
    code = (
        "import sys; from fewbits.checkpoints.opening import open_source; "
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'gguf', 'safetensors'} & set(sys.modules); "
        f"assert not heavy, heavy; open_source({str(POCKET)!r}); "
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
