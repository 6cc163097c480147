"""The real llama.cpp reads our conversions and computes what transformers computes from the source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.pretokenizers import PreTokenizer, pretokenizers
from fewbits.models import known
from references.architecture_models import MODELS as ARCHITECTURES
from references.architecture_models import RELATED, seed_oss
from references.conversion_file import write_f16
from references.random_models import (
    HARD_TEXT,
    LLAMA3,
    QWEN2,
    byte_level_tokenizer,
    manual,
    save_byte_level,
    save_model,
    save_pieces,
    small_config,
)

llama_cpp = pytest.importorskip("llama_cpp")

EXAMPLE = Path(__file__).parents[2] / "examples" / "architectures" / "seed_oss.toml"
POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
TOKENS = 1000
SOME_TOKENS = 256
"""As many as show a fault."""


def pocket(directory: Path) -> Path:
    return POCKET


def llama(directory: Path) -> Path:
    """Llama 3's kind: stretched RoPE, every bias, ignore_merges, a start token."""
    tokenizer = byte_level_tokenizer(pattern=LLAMA3, ignore_merges=True, bos="<|begin|>")
    scaling = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    config = small_config(
        transformers.LlamaConfig,
        rows=tokenizer.get_vocab_size(),
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=scaling,
    )
    save_byte_level(directory, tokenizer)
    save_model(directory, config)
    return directory


def yarn(directory: Path) -> Path:
    """YaRN with parameters other than the usual ones, on a padded vocabulary."""
    tokenizer = byte_level_tokenizer()
    scaling = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    scaling |= {"beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.25}
    config = small_config(
        transformers.LlamaConfig,
        rows=tokenizer.get_vocab_size() + 13,
        max_position_embeddings=512,
        rope_parameters=scaling,
        num_key_value_heads=4,
    )
    save_byte_level(directory, tokenizer)
    save_model(directory, config)
    return directory


def linear(directory: Path) -> Path:
    """Stretched evenly, bfloat16 weights."""
    tokenizer = byte_level_tokenizer(pattern=QWEN2)
    scaling = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 3.0}
    config = small_config(transformers.Qwen2Config, rows=tokenizer.get_vocab_size(), rope_parameters=scaling)
    save_byte_level(directory, tokenizer)
    save_model(directory, config)
    return directory


def mistral_7b_v3(directory: Path) -> Path:
    """A SentencePiece tokenizer as tokenizer.json, a space before the text by Metaspace; wide heads."""
    save_pieces(directory)
    transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
    (directory / "tokenizer.model").unlink()
    config = small_config(
        transformers.MistralConfig, rows=700, bos_token_id=1, eos_token_id=2, head_dim=32, sliding_window=None
    )
    save_model(directory, config)
    return directory


def mistral_7b_v1(directory: Path) -> Path:
    """A SentencePiece tokenizer as tokenizer.json, a space before the text by normalizers; a window."""
    mistral_7b_v3(directory)
    path = directory / "tokenizer.json"
    stated = json.loads(path.read_text())
    steps = [{"type": "Prepend", "prepend": "\u2581"}]
    steps += [{"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    stated |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    path.write_text(json.dumps(stated))
    return directory


def bare_pieces(directory: Path) -> Path:
    """The same kind with nothing but tokenizer.model, and the embedding tied."""
    save_pieces(directory)
    config = small_config(
        transformers.MistralConfig, rows=700, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True
    )
    save_model(directory, config)
    return directory


def qwen2(directory: Path) -> Path:
    tokenizer = byte_level_tokenizer(pattern=QWEN2, nfc=True)
    save_byte_level(directory, tokenizer)
    save_model(directory, small_config(transformers.Qwen2Config, rows=tokenizer.get_vocab_size()))
    return directory


def qwen3(directory: Path) -> Path:
    """A norm on every head, heads wider than hidden / heads, a tied embedding."""
    tokenizer = byte_level_tokenizer(pattern=QWEN2, nfc=True)
    save_byte_level(directory, tokenizer)
    config = small_config(
        transformers.Qwen3Config, rows=tokenizer.get_vocab_size(), head_dim=48, tie_word_embeddings=True
    )
    save_model(directory, config)
    return directory


def mixtral(directory: Path) -> Path:
    """Experts: listed in the checkpoint, stacked in the file."""
    save_pieces(directory)
    transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
    config = small_config(
        transformers.MixtralConfig, rows=700, bos_token_id=1, eos_token_id=2, num_local_experts=4, sliding_window=None
    )
    save_model(directory, config)
    return directory


def qwen3_moe(directory: Path) -> Path:
    """Experts narrower than the feed-forward width, three of eight chosen, their weights made to sum to 1."""
    tokenizer = byte_level_tokenizer(pattern=QWEN2, nfc=True)
    save_byte_level(directory, tokenizer)
    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": True}
    config = small_config(transformers.Qwen3MoeConfig, rows=tokenizer.get_vocab_size(), head_dim=48, **experts)
    save_model(directory, config)
    return directory


MODELS: tuple[Callable[[Path], Path], ...] = (
    pocket,
    llama,
    yarn,
    linear,
    mistral_7b_v1,
    mistral_7b_v3,
    bare_pieces,
    qwen2,
    qwen3,
    mixtral,
    qwen3_moe,
    *ARCHITECTURES,
)


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = request.param(tmp_path / "model")
    return found


def load(path: Path, **options: Any) -> Any:
    context = {"n_ctx": TOKENS + 8, "n_batch": 128, "n_ubatch": 128, "logits_all": True}
    # Stored keys and values in float32, and the file's own word on YaRN: -1 = as the file says.
    context |= {"type_k": 0, "type_v": 0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0}
    return llama_cpp.Llama(str(path), n_threads=2, verbose=False, **{**context, **options})


def expected_logits(directory: Path, tokens: int = TOKENS) -> list[tuple[list[int], torch.Tensor]]:
    """Windows of `tokens` tokens in all, and transformers' log-probabilities of what follows each of them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    limit = min(tokens, model.config.max_position_embeddings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(manual()[50_000:80_000])["input_ids"]
    windows = [ids[start : start + limit] for start in range(0, tokens, limit)]
    with torch.no_grad():
        return [(window, model(torch.tensor([window])).logits[0].double().log_softmax(-1)) for window in windows]


def divergence_from(expected: list[tuple[list[int], torch.Tensor]], file: Path) -> float:
    """Mean KL divergence of llama.cpp's next-token distributions from those of `expected_logits`."""
    peer = load(file, n_ctx=len(expected[0][0]))
    parts = []
    for window, logits in expected:
        peer.reset()
        peer.eval(window)
        found = torch.from_numpy(np.array(peer.scores[: len(window)])).double().log_softmax(-1)
        parts.append((logits.exp() * (logits - found)).sum(-1))
    peer.close()
    return float(torch.cat(parts).mean())


def divergence(directory: Path, file: Path) -> float:
    """Mean KL divergence of llama.cpp's next-token distributions from transformers', over 1,000 tokens."""
    return divergence_from(expected_logits(directory), file)


def test_logits_are_those_of_transformers(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    fewbits.quantize(directory, file, to="F16")
    assert divergence(directory, file) < 1e-4


@pytest.mark.parametrize("make", [*ARCHITECTURES, *RELATED], ids=lambda make: make.__name__)
def test_without_rounding_only_gelu_differs(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """llama.cpp looks GELU up in a table of F16 numbers; all else it computes in float32 where weights are F32."""
    directory, file = make(tmp_path / "model"), tmp_path / "model.gguf"
    fewbits.quantize(directory, file, to="F32")
    stated = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    activation = next(
        stated[key] for key in ("hidden_activation", "hidden_act", "activation_function", "activation") if key in stated
    )
    expected = expected_logits(directory, SOME_TOKENS if make in RELATED else TOKENS)
    assert divergence_from(expected, file) < (1e-5 if "gelu" in activation else 1e-8)


def unordered(conversion: Conversion) -> Conversion:
    """The same conversion with every row left where transformers has it."""
    placements = tuple(dataclasses.replace(p, order=None) for p in conversion.placements)
    return dataclasses.replace(conversion, placements=placements)


def test_a_wrong_order_of_rows_is_seen(tmp_path: Path) -> None:
    directory = llama(tmp_path / "model")
    conversion = convert_directory(directory)
    assert any(p.order is not None for p in conversion.placements)
    file = write_f16(unordered(conversion), tmp_path / "wrong.gguf")
    assert divergence(directory, file) > 0.1


def wrong_rope(conversion: Conversion) -> Conversion:
    """Another base of RoPE; where positions are learned, those of the neighbours."""
    bases = {key: value for key, value in conversion.metadata.items() if ".rope.freq_base" in key}
    changed = {key: Value(value.value * 4, value.type) for key, value in bases.items()}
    moved = tuple(map(_neighbours, conversion.placements)) if not bases else conversion.placements
    return dataclasses.replace(conversion, metadata={**conversion.metadata, **changed}, placements=moved)


def _neighbours(placement: Placement) -> Placement:
    if placement.name != "position_embd.weight":
        return placement
    return dataclasses.replace(placement, order=np.roll(np.arange(placement.source.rows), 1))


def missing_biases(conversion: Conversion) -> Conversion:
    """Biases of 0."""
    return dataclasses.replace(conversion, placements=tuple(map(_without_bias, conversion.placements)))


def _without_bias(placement: Placement) -> Placement:
    if not placement.name.endswith(".bias"):
        return placement
    source = placement.source
    zeros = np.zeros(4 * source.elements, np.uint8)
    return dataclasses.replace(placement, source=StoredTensor(source.name, "F32", source.shape, zeros))


def swapped_layers(conversion: Conversion) -> Conversion:
    """The first two layers in each other's place, as far as both have the same tensors."""
    other, present = {"blk.0.": "blk.1.", "blk.1.": "blk.0."}, {p.name for p in conversion.placements}
    swapped = {name: other.get(name[:6], name[:6]) + name[6:] for name in present}
    names = [swapped[p.name] if swapped[p.name] in present else p.name for p in conversion.placements]
    placements = (dataclasses.replace(p, name=n) for p, n in zip(conversion.placements, names, strict=True))
    return dataclasses.replace(conversion, placements=tuple(placements))


FAULTS = (wrong_rope, missing_biases, swapped_layers)


@pytest.mark.parametrize("make", [*ARCHITECTURES, RELATED[0]], ids=lambda make: make.__name__)
def test_planted_faults_are_seen(make: Callable[[Path], Path], tmp_path: Path) -> None:
    directory = make(tmp_path / "model")
    conversion = convert_directory(directory)
    biased = any(p.name.endswith(".bias") for p in conversion.placements)
    expected = expected_logits(directory, SOME_TOKENS)
    for fault in FAULTS if biased else (wrong_rope, swapped_layers):
        file = write_f16(fault(conversion), tmp_path / f"{fault.__name__}.gguf")
        assert divergence_from(expected, file) > 0.01, fault.__name__


def test_an_architecture_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/architectures.md: llama.cpp reads what its facts make of a model."""
    monkeypatch.setattr(known, "_given", {})
    directory, file = seed_oss(tmp_path / "model"), tmp_path / "model.gguf"
    fewbits.quantize(directory, file, to="F16", architecture=EXAMPLE)
    assert divergence(directory, file) < 1e-4
    for fault in FAULTS:
        wrong = write_f16(fault(convert_directory(directory)), tmp_path / f"{fault.__name__}.gguf")
        assert divergence(directory, wrong) > 0.01, fault.__name__


def expected_tokens(directory: Path, text: str, *, start: bool) -> list[int]:
    """What transformers makes of `text`; for a bare SentencePiece model, what SentencePiece itself makes of it."""
    if (directory / "tokenizer.json").is_file():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        found: list[int] = tokenizer(text, add_special_tokens=start)["input_ids"]
        return found
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    return [processor.bos_id()] * start + processor.encode(text)


def test_tokens_are_those_of_transformers(directory: Path, tmp_path: Path) -> None:
    conversion = convert_directory(directory)
    peer = load(write_f16(conversion, tmp_path / "model.gguf"), vocab_only=True)
    spaced = [] if any("begins with a space" in note for note in conversion.notes) else [" ", "  two"]
    for text in (HARD_TEXT, manual()[:30_000], "", "a", "x\n", "a ", *spaced):
        found = peer.tokenize(text.encode(), add_bos=True, special=True)
        assert found == expected_tokens(directory, text, start=True), text[:40]
    peer.close()


def test_special_tokens_are_those_of_transformers(directory: Path, tmp_path: Path) -> None:
    conversion = convert_directory(directory)
    peer = load(write_f16(conversion, tmp_path / "model.gguf"), vocab_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    added = sorted(tokenizer.get_added_vocab(), key=lambda text: tokenizer.get_added_vocab()[text])
    assert len(added) > 1
    between = "" if any("holds special tokens" in note for note in conversion.notes) else "\nafter"
    text = "One" + "".join(f"{token}{between}{token}" for token in added)
    if (directory / "tokenizer.json").is_file():
        found = peer.tokenize(text.encode(), add_bos=False, special=True)
        assert found == expected_tokens(directory, text, start=False)
    assert peer.token_eos() == tokenizer.eos_token_id
    if tokenizer.bos_token_id is not None:
        assert peer.token_bos() == tokenizer.bos_token_id
    peer.close()


@pytest.mark.parametrize("known", pretokenizers(), ids=lambda known: f"{known.name}-{len(known.steps)}")
def test_every_known_pre_tokenizer_cuts_as_llama_cpp_does(known: PreTokenizer, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(steps=known.steps, ignore_merges=known.ignore_merges)
    save_byte_level(tmp_path, tokenizer)
    save_model(tmp_path, small_config(transformers.LlamaConfig, rows=tokenizer.get_vocab_size()))
    conversion = convert_directory(tmp_path)
    assert conversion.metadata["tokenizer.ggml.pre"].value == known.name
    for name in (known.name, *known.also):
        metadata = {**conversion.metadata, "tokenizer.ggml.pre": Value(name, "string")}
        file = write_f16(dataclasses.replace(conversion, metadata=metadata), tmp_path / f"{name}.gguf")
        peer = load(file, vocab_only=True)
        for text in (HARD_TEXT, manual()[:30_000]):
            assert peer.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode(text).ids, name
        peer.close()
