"""Small models whose widths and depths lead a recipe through all of its rules and fallbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from references.random_models import QWEN2, byte_level_tokenizer, save_byte_level, save_model, small_config

RECIPES = ("Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q6_K", "F16", "BF16")


def _save(directory: Path, kind: type, **changes: Any) -> Path:
    tokenizer = byte_level_tokenizer(pattern=QWEN2, size=400)
    save_byte_level(directory, tokenizer)
    save_model(directory, small_config(kind, rows=tokenizer.get_vocab_size(), **changes))
    return directory


def llama(directory: Path) -> Path:
    """All widths are multiples of 256; grouped queries; an output matrix of its own; 16 layers."""
    return _save(
        directory, transformers.LlamaConfig, hidden_size=256, intermediate_size=512, num_hidden_layers=16, head_dim=16
    )


def llama_tied(directory: Path) -> Path:
    """The embedding is the output; every head has its own keys and values; 8 layers."""
    return _save(
        directory,
        transformers.LlamaConfig,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )


def llama_odd_ffn(directory: Path) -> Path:
    """Only the down projections have a width that 256 does not divide; 11 layers."""
    return _save(
        directory, transformers.LlamaConfig, hidden_size=256, intermediate_size=352, num_hidden_layers=11, head_dim=16
    )


def mistral_deep(directory: Path) -> Path:
    """22 layers, biases nowhere, wide heads."""
    return _save(
        directory,
        transformers.MistralConfig,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=22,
        head_dim=64,
        sliding_window=None,
    )


def qwen2_like_half_a_billion(directory: Path) -> Path:
    """Width 224 = 7 * 32 as Qwen2-0.5B's 896, tied, biases, one head of keys and values; 8 layers."""
    return _save(
        directory,
        transformers.Qwen2Config,
        hidden_size=224,
        intermediate_size=320,
        num_hidden_layers=8,
        num_attention_heads=7,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )


def qwen2_untied(directory: Path) -> Path:
    """Width 288 with an output matrix of its own; 16 layers."""
    return _save(directory, transformers.Qwen2Config, hidden_size=288, intermediate_size=512, num_hidden_layers=16)


def qwen3(directory: Path) -> Path:
    """Heads wider than hidden / heads, a norm on every head, tied; 28 layers."""
    return _save(
        directory,
        transformers.Qwen3Config,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=28,
        head_dim=128,
        tie_word_embeddings=True,
    )


def narrow(directory: Path) -> Path:
    """Widths that not even 32 divides; 8 layers."""
    return _save(directory, transformers.LlamaConfig, hidden_size=48, intermediate_size=80, num_hidden_layers=8)


MODELS: tuple[Callable[[Path], Path], ...] = (
    llama,
    llama_tied,
    llama_odd_ffn,
    mistral_deep,
    qwen2_like_half_a_billion,
    qwen2_untied,
    qwen3,
    narrow,
)
