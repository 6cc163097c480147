"""Random models of any size for the benches, written shard-free and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PIECE = 1 << 22
"""Random numbers made at a time; longer tensors repeat them with other offsets."""


@dataclass(frozen=True)
class Shape:
    """A Llama's widths."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    context: int = 16384

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor."""
        h, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocab, h)
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            yield f"{layer}.input_layernorm.weight", (h,)
            for name, rows in (("q", h), ("k", kv), ("v", kv), ("o", h)):
                yield f"{layer}.self_attn.{name}_proj.weight", (rows, h)
            yield f"{layer}.post_attention_layernorm.weight", (h,)
            for name, shape in (("gate", (self.ffn, h)), ("up", (self.ffn, h)), ("down", (h, self.ffn))):
                yield f"{layer}.mlp.{name}_proj.weight", shape
        yield "model.norm.weight", (h,)
        yield "lm_head.weight", (self.vocab, h)


ONE_BILLION = Shape(hidden=2048, layers=16, ffn=8192, heads=32, kv_heads=8, vocab=32000)
EIGHT_BILLION = Shape(hidden=4096, layers=32, ffn=14336, heads=32, kv_heads=8, vocab=128256)
LARGE_EMBEDDING = Shape(hidden=4096, layers=1, ffn=4096, heads=32, kv_heads=8, vocab=131072)


def make_llama(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A Llama of random bf16 weights (normal, 0.02) with a byte-level tokenizer in `folder`; kept if it is there."""
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(shape.vocab)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|0|>", "eos_token": "<|0|>"}))
    _write_weights(folder / "model.safetensors", shape, seed)
    return folder


def _tokenizer(size: int) -> dict[str, object]:
    """A GPT-2-like tokenizer of `size` tokens: one special token, 256 bytes, and pairs of earlier tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i, _ in enumerate(others)]
    tokens, merges = ["<|0|>", *alphabet], []
    known = set(tokens)
    for left in list(alphabet):
        for right in alphabet * (1 + size // 60000):
            if len(tokens) < size and left + right not in known:
                merges.append([left, right])
                tokens.append(left + right)
                known.add(left + right)
    for pair in list(tokens[257:]):
        if len(tokens) >= size:
            break
        if pair + "e" not in known:
            merges.append([pair, "e"])
            tokens.append(pair + "e")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 0, "content": "<|0|>", "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }


def _write_weights(path: Path, shape: Shape, seed: int) -> None:
    header: dict[str, object] = {}
    position = 0
    for name, dims in shape.tensors():
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    numbers = rng.normal(0.0, 0.02, PIECE).astype(np.float32)
    pool = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, dims in shape.tensors():
            left = int(np.prod(dims))
            while left:
                start = int(rng.integers(0, PIECE // 2))
                part = pool[start : start + left]
                file.write(part.tobytes())
                left -= len(part)
    partial.rename(path)
