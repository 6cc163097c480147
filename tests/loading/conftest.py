"""A model that is small and has all that is asked about: tied embeddings, widths for every format, a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from references.random_models import QWEN2, byte_level_tokenizer, save_byte_level, save_model, small_config


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and 256 columns, in bfloat16."""
    path = tmp_path_factory.mktemp("models") / "model"
    tokenizer = byte_level_tokenizer(pattern=QWEN2, size=600)
    config = small_config(
        transformers.LlamaConfig,
        rows=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
        tie_word_embeddings=True,
    )
    save_model(path, config, dtype=torch.bfloat16)
    save_byte_level(path, tokenizer)
    return path
