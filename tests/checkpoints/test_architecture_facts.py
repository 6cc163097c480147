"""What architectures take for granted is refused by name where a configuration says something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewbits.checkpoints.huggingface import convert_directory
from fewbits.errors import CheckpointError
from fewbits.models import for_gguf
from references import architecture_models as models


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")
    return directory


def setting(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(changes)


def rope(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["rope_parameters"].update(changes)


REFUSED = [
    (models.gemma2, setting(attn_logit_softcapping=None), "attn_logit_softcapping = null, which .*cannot state"),
    (models.gemma2, setting(sliding_window=None), "sliding_window = null, which .*cannot state"),
    (models.gemma2, setting(query_pre_attn_scalar=64), r"query_pre_attn_scalar = 64, and llama.cpp .*with 32 \(head\)"),
    (
        models.gemma2,
        setting(layer_types=["full_attention"] * 3),
        "layer_types that do not repeat sliding_attention, full",
    ),
    (models.gemma2, setting(tie_word_embeddings=False), "tie_word_embeddings = False, which .*cannot state"),
    (models.gemma2, setting(hidden_activation="gelu"), "hidden_activation = 'gelu'"),
    (models.gemma3, setting(attn_logit_softcapping=30.0), "attn_logit_softcapping = 30.0, which .*cannot state"),
    (
        models.gemma3,
        lambda config: config["rope_parameters"]["sliding_attention"].update(rope_type="linear", factor=2.0),
        "stretches RoPE in layers of kind sliding_attention",
    ),
    (models.phi3, rope(partial_rotary_factor=0.7), "would rotate 11 of 16 columns of a head, no even number"),
    (models.phi3, rope(partial_rotary_factor=1.5), "partial_rotary_factor = 1.5"),
    (models.phi3, rope(short_factor=[1.0]), "needs 6 positive numbers as short_factor"),
    (models.phi3, rope(long_factor=[0.0] * 6), "needs 6 positive numbers as long_factor"),
    (models.gpt2, setting(n_inner=None, intermediate_size=None), "has shape .* where .* calls for .*256"),
    (models.gpt2, setting(activation_function="relu"), "activation_function = 'relu'"),
    (models.gpt2, setting(layer_norm_epsilon=0), "layer_norm_epsilon = 0, and a number between 0 and 1"),
    (models.starcoder2, setting(use_bias=False), "use_bias = False"),
    (models.granite, setting(logits_scaling="2"), "logits_scaling = '2'"),
    (models.qwen2_moe, setting(norm_topk_prob=True), "norm_topk_prob = True"),
    (models.gpt_neox, setting(hidden_act="relu"), "hidden_act = 'relu'"),
]


@pytest.mark.parametrize(
    ("make", "change", "saying"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_other_values_are_refused(
    make: Callable[[Path], Path], change: Callable[[dict[str, Any]], None], saying: str, tmp_path: Path
) -> None:
    directory = edit(make(tmp_path / "model"), change)
    with pytest.raises(CheckpointError, match=saying):
        convert_directory(directory)


def test_both_spellings_of_two_ropes_are_one(tmp_path: Path) -> None:
    """Transformers 4 states the base of layers with a window beside the parameters of all others."""
    directory = models.gemma3(tmp_path / "model")
    expected = convert_directory(directory).metadata

    def older(config: dict[str, Any]) -> None:
        stated = config.pop("rope_parameters")
        config["rope_local_base_freq"] = stated["sliding_attention"]["rope_theta"]
        config["rope_theta"] = stated["full_attention"].pop("rope_theta")
        config["rope_scaling"] = stated["full_attention"]

    assert convert_directory(edit(directory, older)).metadata == expected
    assert expected["gemma3.rope.freq_base_swa"].value == 2000.0
    assert expected["gemma3.rope.scaling.factor"].value == 4.0


def test_the_largest_gemma_divides_scores_otherwise() -> None:
    assert for_gguf("gemma2").implications(42) == {"query_pre_attn_scalar": "head"}
    assert for_gguf("gemma2").implications(46) == {"query_pre_attn_scalar": "hidden / heads"}


def test_a_window_that_llama_cpp_does_not_know_is_said(tmp_path: Path) -> None:
    directory = edit(models.phi4(tmp_path / "model"), setting(sliding_window=100))
    assert any("window of 100 tokens is left out" in note for note in convert_directory(directory).notes)
    assert not any("window" in note for note in convert_directory(models.gemma2(tmp_path / "gemma")).notes)


def test_tokens_that_take_white_space_along_are_said(tmp_path: Path) -> None:
    """Phi-3's do; a GGUF file has no place for it."""
    directory = models.phi3(tmp_path / "model")
    assert not any("white space" in note for note in convert_directory(directory).notes)
    path = directory / "tokenizer.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["added_tokens"][-1]["rstrip"] = True
    path.write_text(json.dumps(stated), encoding="utf-8")
    assert any(note.startswith("1 added tokens (such as") for note in convert_directory(directory).notes)
