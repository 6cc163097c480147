"""A small random model of each architecture that a GGUF file can hold, with a tokenizer of its kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from references.random_models import (
    GPT4O,
    LLAMA3,
    QWEN2,
    byte_level_tokenizer,
    save_byte_level,
    save_model,
    save_pieces,
    small_config,
)

SPACE = "\u2581"
PIECES = 700


def _pieces(directory: Path) -> int:
    """A SentencePiece tokenizer as Gemma's tokenizer.json states it; returns the number of tokens."""
    save_pieces(directory, size=PIECES)
    transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
    (directory / "tokenizer.model").unlink()
    path = directory / "tokenizer.json"
    stated = json.loads(path.read_text())
    stated["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    stated["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    path.write_text(json.dumps(stated))
    settings = directory / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    settings.write_text(json.dumps({**known, "tokenizer_class": "PreTrainedTokenizerFast"}))
    return PIECES


def _gemma(directory: Path, kind: type, **changes: Any) -> Path:
    rows = _pieces(directory)
    values = {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True, "head_dim": 32}
    values |= {"query_pre_attn_scalar": 32, "sliding_window": 48, "num_hidden_layers": 3}
    save_model(directory, small_config(kind, rows=rows, **{**values, **changes}))
    return directory


def gemma2(directory: Path, **changes: Any) -> Path:
    """Gains of 1 + w, soft caps that bite, every other layer with a window."""
    caps = {"attn_logit_softcapping": 8.0, "final_logit_softcapping": 5.0}
    return _gemma(directory, transformers.Gemma2Config, **{**caps, **changes})


def gemma3(directory: Path, **changes: Any) -> Path:
    """Norms on queries and keys, five layers of six with a window and a RoPE of their own; the others' is stretched."""
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2000.0},
    }
    values = {"rope_parameters": rope, "num_hidden_layers": 6, **changes}
    return _gemma(directory, transformers.Gemma3TextConfig, **values)


def phi3(directory: Path, **changes: Any) -> Path:
    """Llama's tokenizer, fused matrices, three quarters of a head rotated, two lists of factors of RoPE."""
    save_pieces(directory, size=PIECES)
    transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 5000.0, "partial_rotary_factor": 0.75}
    pairs = changes.get("hidden_size", 64) * 3 // 32
    rope |= {"long_factor": [1.0 + n for n in range(pairs)], "short_factor": [1.0 + n / 4 for n in range(pairs)]}
    values: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "rope_parameters": rope}
    values |= {"max_position_embeddings": 2048, "original_max_position_embeddings": 512}
    save_model(directory, small_config(transformers.Phi3Config, rows=PIECES, **{**values, **changes}))
    return directory


def _byte_level(directory: Path, kind: type, *, pattern: str | None = None, **values: Any) -> Path:
    tokenizer = byte_level_tokenizer(pattern=pattern)
    save_byte_level(directory, tokenizer)
    save_model(directory, small_config(kind, rows=tokenizer.get_vocab_size(), **values))
    return directory


def phi4(directory: Path, **changes: Any) -> Path:
    """Byte-level tokens, no stretched RoPE, a tied embedding."""
    return _byte_level(directory, transformers.Phi3Config, pattern=LLAMA3, **{"tie_word_embeddings": True, **changes})


def gpt2(directory: Path, **changes: Any) -> Path:
    """Matrices that lie the other way, biases everywhere, learned positions."""
    values = {"num_key_value_heads": 4, "n_inner": changes.pop("intermediate_size", 96), "n_positions": 1024}
    for key, own in {"hidden_size": "n_embd", "num_hidden_layers": "n_layer"}.items():
        values |= {own: changes.pop(key)} if key in changes else {}
    return _byte_level(directory, transformers.GPT2Config, **{**values, **changes})


def granite(directory: Path, **changes: Any) -> Path:
    """Biases, and the four factors, none of them 1."""
    factors = {"embedding_multiplier": 6.0, "residual_multiplier": 0.5, "attention_multiplier": 0.5}
    values = {**factors, "logits_scaling": 0.25, "attention_bias": True, "mlp_bias": True, **changes}
    return _byte_level(directory, transformers.GraniteConfig, **values)


def starcoder2(directory: Path, **changes: Any) -> Path:
    """LayerNorm, a feed-forward without gate, a tied embedding."""
    values = {"tie_word_embeddings": True, "sliding_window": None, **changes}
    return _byte_level(directory, transformers.Starcoder2Config, **values)


def olmo2(directory: Path, **changes: Any) -> Path:
    """Norms behind attention and feed-forward, and on all queries and keys together."""
    return _byte_level(directory, transformers.Olmo2Config, pattern=LLAMA3, **changes)


def qwen2_moe(directory: Path, **changes: Any) -> Path:
    """Experts, three of eight chosen, and one that all tokens share behind its gate; biases."""
    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
    values = {**experts, "shared_expert_intermediate_size": 64, "pad_token_id": None, **changes}
    return _byte_level(directory, transformers.Qwen2MoeConfig, pattern=QWEN2, **values)


def gpt_neox(directory: Path, **changes: Any) -> Path:
    """Query, key and value of each head together; half of a head rotated."""
    rope = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
    values = {"num_key_value_heads": 4, "rope_parameters": rope, **changes}
    return _byte_level(directory, transformers.GPTNeoXConfig, **values)


def falcon(directory: Path, **changes: Any) -> Path:
    """The decoder of 40B: a norm for attention and one for the feed-forward, queries that share keys."""
    values = {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "ffn_hidden_size": changes.pop("intermediate_size", 96),
    }
    return _byte_level(directory, transformers.FalconConfig, **{**values, **changes})


def falcon_7b(directory: Path, **changes: Any) -> Path:
    """The first decoder: one norm, and one head of keys, whatever num_kv_heads says; a head of its own."""
    values = {"num_kv_heads": 4, "tie_word_embeddings": False, "ffn_hidden_size": changes.pop("intermediate_size", 96)}
    return _byte_level(directory, transformers.FalconConfig, **{**values, **changes})


def gpt_oss(directory: Path, **changes: Any) -> Path:
    """Experts that lie the other way, with biases, and sinks; every other layer with a window; YaRN."""
    rope = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 512}
    rope |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": changes.pop("truncate", True)}
    values = {"num_local_experts": 8, "num_experts_per_tok": 4, "head_dim": 32, "sliding_window": 48}
    values |= {"rope_parameters": rope, "swiglu_limit": 7.0, **changes}
    return _byte_level(directory, transformers.GptOssConfig, pattern=GPT4O, **values)


def llama4(directory: Path, **changes: Any) -> Path:
    """Experts in every other layer, stacked the other way, and one that all share; the fourth layer has no RoPE."""
    scaling = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    values = {"intermediate_size_mlp": 80, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16}
    values |= {"interleave_moe_layer_step": 2, "num_hidden_layers": 4, "rope_parameters": scaling, **changes}
    return _byte_level(directory, transformers.Llama4TextConfig, pattern=GPT4O, **values)


_LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24}
_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "first_k_dense_replace": 1}


def _deepseek_rope(scale: float) -> dict[str, Any]:
    """YaRN, by which scores are multiplied."""
    rope = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 512}
    return rope | {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": scale, "mscale_all_dim": scale}


def deepseek_v2(directory: Path, **changes: Any) -> Path:
    """Latent keys, values and queries (MLA); a dense layer, then experts, two of which all tokens share."""
    values = {**_LATENT, **_EXPERTS, "q_lora_rank": 24, "n_shared_experts": 2, "routed_scaling_factor": 1.5}
    values |= {"num_hidden_layers": 3, "num_key_value_heads": 4, "rope_parameters": _deepseek_rope(0.707), **changes}
    return _byte_level(directory, transformers.DeepseekV2Config, **values)


def deepseek_v2_lite(directory: Path) -> Path:
    """Queries that are not latent, which llama.cpp tells by the number of layers."""
    narrow = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    return deepseek_v2(directory, q_lora_rank=None, num_hidden_layers=26, first_k_dense_replace=24, **narrow)


def deepseek_v3(directory: Path, **changes: Any) -> Path:
    """Groups of experts, chosen by corrected scores."""
    values = {**_LATENT, **_EXPERTS, "q_lora_rank": 24, "n_shared_experts": 1, "n_group": 4, "topk_group": 2}
    values |= {"n_routed_experts": 16, "num_experts_per_tok": 6, "routed_scaling_factor": 1.25}
    values |= {"num_hidden_layers": 3, "num_key_value_heads": 4, "rope_parameters": _deepseek_rope(1.0)}
    return _byte_level(directory, transformers.DeepseekV3Config, **{**values, "num_mtp_layers": 0, **changes})


def seed_oss(directory: Path) -> Path:
    """Of an architecture that does not come with fewbits: examples/architectures has it."""
    return _byte_level(directory, transformers.SeedOssConfig, pattern=LLAMA3, head_dim=24)


MODELS: tuple[Callable[..., Path], ...] = (
    gemma2,
    gemma3,
    phi3,
    phi4,
    gpt2,
    granite,
    starcoder2,
    olmo2,
    qwen2_moe,
    gpt_neox,
    falcon,
    falcon_7b,
    gpt_oss,
    llama4,
    deepseek_v3,
)
"""Those that everything is done with."""

RELATED: tuple[Callable[..., Path], ...] = (deepseek_v2, deepseek_v2_lite)
"""Relatives of one of them, in one GGUF architecture: what they compute is compared, and no more."""


def seeing_llama4(directory: Path) -> tuple[Path, Path]:
    """A Llama 4 that sees, in its checkpoint's names, and the language model in it by itself."""
    alone = llama4(directory / "alone")
    whole = directory / "whole"
    shutil.copytree(alone, whole)
    stated = json.loads((alone / "config.json").read_text())
    config = {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "text_config": stated}
    config |= {"vision_config": {"model_type": "llama4_vision_model"}, "image_token_index": 5}
    (whole / "config.json").write_text(json.dumps(config))
    tensors = {f"language_model.{name}": w for name, w in load_file(alone / "model.safetensors").items()}
    tensors |= {"vision_model.patch_embedding.linear.weight": torch.ones(4, 12)}
    tensors |= {"multi_modal_projector.linear_1.weight": torch.ones(8, 4)}
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    return whole, alone
