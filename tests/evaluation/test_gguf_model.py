"""A GGUF file's network is the network it was made from: same logits, whatever the architecture's specialities."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fewbits.errors import EvaluationError, FewbitsError
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.evaluation.model_files import open_model
from references.gguf_files import Floats, write_gguf

SMALL = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ROPE: dict[str, Any] = {"rope_theta": 5000.0, "rope_type": "default"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, pocket: Path) -> Maker:
    """A directory with a random model in which every parameter matters, norms and biases included."""

    def build(kind: str, **changes: Any) -> Path:
        config = transformers.AutoConfig.for_model(kind, **{**SMALL, "rope_parameters": dict(ROPE), **changes})
        torch.manual_seed(3)
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.1 + ("norm" in name))
        network.save_pretrained(tmp_path / "model")
        for file in pocket.glob("tokenizer*"):
            shutil.copy(file, tmp_path / "model")
        return tmp_path / "model"

    return build


def _largest_difference(a: Path, b: Path, tokens: int = 96) -> float:
    ids = torch.randint(0, 4096, (tokens,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return float((open_model(a).load().logits(ids) - open_model(b).load().logits(ids)).abs().max())


CASES = [
    ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}, {}),
    ("qwen3", {"head_dim": 16}, {}),
    ("qwen2", {"tie_word_embeddings": True}, {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    ("llama", {"head_dim": 32, "num_key_value_heads": 4}, {}),
    (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    ),
    (
        "qwen2",
        {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        {
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 32,
        },
    ),
]


@pytest.mark.parametrize(("kind", "changes", "metadata"), CASES)
def test_logits_equal_those_of_the_source(
    make: Maker, tmp_path: Path, kind: str, changes: dict[str, Any], metadata: dict[str, Any]
) -> None:
    source = make(kind, **changes)
    target = write_gguf(source, tmp_path / "model.gguf", kind="F32", metadata=metadata)
    assert _largest_difference(source, target) < 1e-4


@pytest.mark.parametrize(("kind", "changes", "metadata"), CASES[-2:])
def test_a_file_that_does_not_state_its_scaling_differs(
    make: Maker, tmp_path: Path, kind: str, changes: dict[str, Any], metadata: dict[str, Any]
) -> None:
    source = make(kind, **changes)
    assert _largest_difference(source, write_gguf(source, tmp_path / "model.gguf", kind="F32")) > 0.1


def test_yarn_with_an_attention_factor_of_its_own(make: Maker, tmp_path: Path) -> None:
    rope = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    source = make("qwen2", rope_parameters={**rope, "attention_factor": 1.5})
    prefix = "qwen2.rope.scaling"
    stated = {f"{prefix}.type": "yarn", f"{prefix}.factor": 4.0, f"{prefix}.original_context_length": 32}
    # 1 + 0.1 ln 4 = 1.13862943611 is what llama.cpp multiplies by without being told.
    target = write_gguf(
        source, tmp_path / "a.gguf", kind="F32", metadata={**stated, f"{prefix}.attn_factor": 1.5 / 1.13862943611}
    )
    assert _largest_difference(source, target) < 1e-4


def test_frequency_factors_of_llama_3(make: Maker, tmp_path: Path) -> None:
    source = make("llama", rope_parameters={**ROPE, **LLAMA3, "original_max_position_embeddings": 32})
    with_scaling = open_model(source).load().network.model.rotary_emb.inv_freq
    plain = 1.0 / 5000.0 ** (torch.arange(0, 16, 2) / 16)

    def add_factors(tensors: dict[str, Floats]) -> None:
        tensors["rope_freqs.weight"] = (plain / with_scaling).numpy()

    target = write_gguf(source, tmp_path / "with.gguf", kind="F32", edit=add_factors)
    assert _largest_difference(source, target) < 1e-4
    assert _largest_difference(source, write_gguf(source, tmp_path / "without.gguf", kind="F32")) > 0.1


def test_a_wrong_permutation_is_visible(make: Maker, tmp_path: Path) -> None:
    source = make("llama")
    target = write_gguf(source, tmp_path / "wrong.gguf", kind="F32", interleave=False)
    assert _largest_difference(source, target) > 0.1


def test_swapped_tensors_of_one_shape_are_visible(make: Maker, tmp_path: Path) -> None:
    def swap(tensors: dict[str, Floats]) -> None:
        k, v = "blk.1.attn_k.weight", "blk.1.attn_v.weight"
        tensors[k], tensors[v] = tensors[v], tensors[k]

    source = make("qwen2")
    assert _largest_difference(source, write_gguf(source, tmp_path / "m.gguf", kind="F32", edit=swap)) > 0.1


def test_the_embedded_model_in_f16(pocket: Path, pocket_f16: Path) -> None:
    assert _largest_difference(pocket, pocket_f16, tokens=512) < 1e-3


def test_loading_leaves_no_gradients_and_no_placeholders(pocket_f16: Path) -> None:
    network = open_model(pocket_f16).load().network
    assert not network.training
    for tensor in [*network.parameters(), *network.buffers()]:
        assert not tensor.is_meta
        assert not tensor.requires_grad
    assert network.lm_head.weight is network.model.embed_tokens.weight


def _dropping(name: str) -> Callable[[dict[str, Floats]], None]:
    return lambda tensors: tensors.__delitem__(name)


def _doubling(tensors: dict[str, Floats]) -> None:
    tensors["blk.2.ffn_gate_exps.weight"] = tensors["blk.2.ffn_gate.weight"]


def _narrowing(tensors: dict[str, Floats]) -> None:
    tensors["blk.3.attn_k.weight"] = tensors["blk.3.attn_k.weight"][:64]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_dropping("blk.1.attn_k.weight"), r"lacks tensor blk\.1\.attn_k\.weight"),
        (_dropping("token_embd.weight"), r"no token_embd\.weight"),
        (_doubling, r"no place for tensor blk\.2\.ffn_gate_exps\.weight"),
        (_narrowing, r"blk\.3\.attn_k\.weight has shape \(64, 256\), but .* \(128, 256\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    pocket: Path, tmp_path: Path, edit: Callable[[dict[str, Floats]], None], sentence: str
) -> None:
    target = write_gguf(pocket, tmp_path / "model.gguf", edit=edit)
    with pytest.raises(EvaluationError, match=sentence):
        open_model(target).load()


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"llama.context_length": None}, "do not state max position embeddings"),
        ({"llama.attention.value_length": 32}, "another key says 64"),
        ({"llama.vocab_size": 5000}, "4096 rows for 5000 tokens"),
        ({"llama.block_count": 3}, "no place for tensor blk.3"),
        ({"llama.attention.head_count": [4, 4, 4, 2]}, "not one number"),
        ({"llama.rope.scaling.type": "longrope"}, "RoPE scaling with the kind 'longrope'"),
        ({"llama.rope.scaling.yarn_log_multiplier": 0.5}, "RoPE scaling with the key"),
    ],
)
def test_metadata_that_do_not_fit_are_named(
    pocket: Path, tmp_path: Path, metadata: dict[str, Any], sentence: str
) -> None:
    target = write_gguf(pocket, tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(FewbitsError, match=sentence):
        open_model(target).load()


def test_what_a_file_may_leave_out(pocket: Path, tmp_path: Path) -> None:
    keys = ("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base")
    target = write_gguf(pocket, tmp_path / "bare.gguf", metadata={f"llama.{key}": None for key in keys})
    assert _largest_difference(pocket, target) < 1e-3


def test_a_start_token_only_where_the_file_asks_for_one(pocket: Path, tmp_path: Path, pocket_f16: Path) -> None:
    assert GGUFModel.open(pocket_f16).vocabulary().start_token is None
    asks = write_gguf(pocket, tmp_path / "asks.gguf", metadata={"tokenizer.ggml.add_bos_token": True})
    assert GGUFModel.open(asks).vocabulary().start_token == 0
    silent = write_gguf(pocket, tmp_path / "silent.gguf", metadata={"tokenizer.ggml.add_bos_token": None})
    assert GGUFModel.open(silent).vocabulary().start_token is None


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1"])
def test_formats_that_only_the_gguf_package_decodes(pocket: Path, tmp_path: Path, kind: str) -> None:
    target = write_gguf(pocket, tmp_path / "model.gguf", kind=kind)
    weight = open_model(target).load().network.model.layers[0].mlp.up_proj.weight
    expected = open_model(pocket).load().network.model.layers[0].mlp.up_proj.weight
    assert 0 < float((weight - expected).abs().max()) < 0.2 * float(expected.abs().max())


def test_a_format_that_nothing_decodes_is_refused(pocket_f16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.kernels.formats", lambda: frozenset({"F32"}))
    monkeypatch.setattr("fewbits.evaluation.decoding._known_to_gguf", lambda: {"Q4_0"})
    with pytest.raises(EvaluationError, match="stored as F16 cannot be decoded"):
        open_model(pocket_f16).load()


def test_logits_from_a_position_on_are_the_last_rows_of_all(pocket_f16: Path) -> None:
    model, ids = open_model(pocket_f16).load(), torch.arange(40)
    with torch.inference_mode():
        everything = model.logits(ids)
        for first in (0, 1, 20, 39):
            assert torch.allclose(model.logits(ids, first), everything[first:], atol=1e-4)
