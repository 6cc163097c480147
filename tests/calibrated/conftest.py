"""Small random models with the embedded model's tokens, and texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fewbits.workers import Workers
from references.outlier_models import with_outliers

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


def write_model(path: Path, *, tied: bool = True, seed: int = 1, layers: int = 3) -> Path:
    """A random Llama of 4,096 tokens whose outputs depend on everything in it, with the embedded model's tokenizer."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=tied,
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (POCKET / name).exists():
            shutil.copy(POCKET / name, path / name)
    config_file = path / "config.json"
    stated = json.loads(config_file.read_text(encoding="utf-8"))
    original = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    stated |= {key: value for key, value in original.items() if key.endswith("token_id")}
    config_file.write_text(json.dumps(stated), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers of 64 columns, embedding and head tied."""
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    return write_model(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="session")
def outlying(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a few channels far larger than the others."""
    path = tmp_path_factory.mktemp("models") / "outlying"
    shutil.copytree(untied, path)
    changed = with_outliers({name: w.float() for name, w in load_file(path / "model.safetensors").items()}, 3)
    save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as pool:
        yield pool
