"""Small random models of every architecture that the engine runs, and what makes them fit for numbers of 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file, save_file

from references import architecture_models
from references.random_models import LLAMA3, byte_level_tokenizer, save_byte_level, save_model, small_config

_tokenizer = cache(byte_level_tokenizer)


def _model(directory: Path, kind: type, **changes: Any) -> Path:
    tokenizer = _tokenizer(pattern=LLAMA3, size=300)
    save_byte_level(directory, tokenizer)
    save_model(directory, small_config(kind, rows=tokenizer.get_vocab_size(), **changes))
    return directory


def llama(directory: Path) -> Path:
    """Biases everywhere, and Llama 3.1's RoPE."""
    rope = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    biases = {"attention_bias": True, "mlp_bias": True}
    return _model(directory, transformers.LlamaConfig, rope_parameters=rope, num_hidden_layers=3, **biases)


def mistral(directory: Path) -> Path:
    """Heads wider than hidden / heads; no window, which a GGUF file cannot state."""
    return _model(directory, transformers.MistralConfig, head_dim=32, sliding_window=None)


def mixtral(directory: Path) -> Path:
    """Six experts, three of them chosen."""
    experts = {"num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": None}
    return _model(directory, transformers.MixtralConfig, **experts)


def qwen2(directory: Path) -> Path:
    """Biases of queries, keys and values; a tied embedding."""
    return _model(directory, transformers.Qwen2Config, tie_word_embeddings=True)


def qwen3(directory: Path) -> Path:
    """Norms on queries and keys; YaRN."""
    rope = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    return _model(directory, transformers.Qwen3Config, head_dim=32, rope_parameters=rope)


def qwen3_moe(directory: Path) -> Path:
    """Eight experts, three of them chosen; heads of their own width."""
    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True}
    return _model(directory, transformers.Qwen3MoeConfig, head_dim=32, **experts)


def gpt_neox_in_turn(directory: Path) -> Path:
    """Attention first, then the feed-forward, as a configuration may have it."""
    return architecture_models.gpt_neox(directory, use_parallel_residual=False)


_OWN = (llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gpt_neox_in_turn)
_OTHERS = ("gemma2", "gemma3", "phi3", "phi4", "gpt2", "granite", "starcoder2", "olmo2", "qwen2_moe", "gpt_neox")
_LAST = ("falcon", "falcon_7b", "gpt_oss", "seed_oss")
MODELS: Mapping[str, Callable[[Path], Path]] = {
    **{make.__name__: make for make in _OWN},
    **{name: getattr(architecture_models, name) for name in (*_OTHERS, *_LAST)},
}

# Attention that is sharp shows every wrong position, and makes of what 8 bits lose many times as much.
_SHARP = ("q_proj.", "k_proj.", "qkv_proj.", "c_attn.weight", "query_key_value.weight")


# Rounding sends a token that lies between two experts to the other one, whatever computes it: here the second of them
# has little to say.
_ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight", "mlp.router.weight")


def calm(directory: Path) -> Path:
    """The model in a directory, its attention as flat again as chance had made it, its experts chosen clearly."""
    path = directory / "model.safetensors"
    gemma = json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"].startswith("gemma")
    tensors = load_file(path)
    for key, w in tensors.items():
        if any(part in key for part in _SHARP) and w.ndim > 1:
            tensors[key] = (w / 3).half().float()
        if key.endswith(_ROUTERS):
            tensors[key] = (w * 4).half().float()
        if gemma and "norm" in key:  # there a gain is 1 + w
            tensors[key] = w - 1
    save_file(tensors, path, {"format": "pt"})
    return directory
