"""Models that nobody here made fewbits for, quantized, load in llama.cpp and compute what their decoded weights say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits.evaluation.model_files import open_model
from references.random_models import (
    QWEN2,
    byte_level_tokenizer,
    manual,
    save_byte_level,
    save_model,
    save_pieces,
    small_config,
)

llama_cpp = pytest.importorskip("llama_cpp")

TOKENS = 256


def qwen3(directory: Path) -> Path:
    """Tied embedding, a norm on every head, heads wider than hidden / heads."""
    tokenizer = byte_level_tokenizer(pattern=QWEN2, nfc=True)
    save_byte_level(directory, tokenizer)
    rows = tokenizer.get_vocab_size()
    widths = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 96, "num_hidden_layers": 3}
    save_model(directory, small_config(transformers.Qwen3Config, rows=rows, tie_word_embeddings=True, **widths))
    return directory


def mistral(directory: Path) -> Path:
    """A SentencePiece tokenizer, and widths that are no multiple of 256: every matrix falls back."""
    save_pieces(directory)
    transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
    (directory / "tokenizer.model").unlink()
    widths = {"hidden_size": 288, "intermediate_size": 480, "head_dim": 48, "num_hidden_layers": 3}
    save_model(directory, small_config(transformers.MistralConfig, rows=700, bos_token_id=1, eos_token_id=2, **widths))
    return directory


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q4_K_S", "Q6_K", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("make", [qwen3, mistral], ids=lambda make: make.__name__)
def test_llama_cpp_computes_what_the_decoded_weights_say(
    make: Callable[[Path], Path], recipe: str, tmp_path: Path
) -> None:
    source, file = make(tmp_path / "model"), tmp_path / "model.gguf"
    fewbits.quantize(source, file, to=recipe)
    ids = transformers.AutoTokenizer.from_pretrained(source)(manual()[10_000:20_000])["input_ids"][:TOKENS]
    original = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    decoded = open_model(file).load().network
    theirs = _llama_logits(file, ids)
    with torch.no_grad():
        p, q = (m(torch.tensor([ids])).logits[0].double().log_softmax(-1) for m in (original, decoded))
    cost, difference = _kl(p, q), _kl(q, theirs)
    # llama.cpp also rounds activations to eight bits: about what weights of eight bits cost, little beside four.
    share = 0.25 if recipe.startswith("Q4") else 1.0
    assert difference < share * cost + 0.02, (cost, difference)
    again = peer_tokens(file)
    assert again == transformers.AutoTokenizer.from_pretrained(source)("The import system, 3.14")["input_ids"]


@pytest.mark.parametrize("make", [qwen3, mistral], ids=lambda make: make.__name__)
def test_llama_cpp_computes_the_same_of_a_rotated_model(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """In float32, as near as it comes to the model as it was; a head of its own where there was none."""
    source = make(tmp_path / "model")
    ids = transformers.AutoTokenizer.from_pretrained(source)(manual()[10_000:20_000])["input_ids"][:TOKENS]
    original = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        wanted = original(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    difference = {}
    for method in ("nearest", "hadamard"):
        file = tmp_path / f"{method}.gguf"
        fewbits.quantize(source, file, to="F32", method=method)
        difference[method] = _kl(wanted, _llama_logits(file, ids))
    assert difference["hadamard"] < min(1.5 * difference["nearest"] + 1e-5, 2e-3), difference


def _kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


def _load(file: Path) -> Any:
    return llama_cpp.Llama(str(file), n_ctx=TOKENS, n_batch=TOKENS, logits_all=True, n_threads=2, verbose=False)


def _llama_logits(file: Path, ids: list[int]) -> torch.Tensor:
    peer = _load(file)
    peer.eval(ids)
    logits = torch.from_numpy(np.array(peer.scores[: len(ids)])).double().log_softmax(-1)
    peer.close()
    return logits


def peer_tokens(file: Path) -> list[int]:
    """llama.cpp's own tokens of a short text."""
    peer = _load(file)
    tokens: list[int] = peer.tokenize(b"The import system, 3.14", add_bos=True, special=False)
    peer.close()
    return tokens
