"""GGUF files of small random models with experts, made with the gguf package alone: three-dimensional tensors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from references.gguf_files import Floats, _add_metadata, _tokens
from references.random_models import byte_level_tokenizer, save_byte_level

LAYERS, WIDTH, FFN, HEADS, KEY_HEADS = 3, 256, 256, 4, 2


def write_moe(folder: Path, *, experts: int = 4, shared: bool = False, kind: str = "F16", edit: object = None) -> Path:
    """A model of llama's architecture (as Mixtral is), or with `shared` of qwen2moe's, with weights that matter."""
    folder.mkdir(parents=True, exist_ok=True)
    save_byte_level(folder, byte_level_tokenizer(size=400))
    name = "qwen2moe" if shared else "llama"
    tokens = _tokens(folder, {"vocab_size": 400})
    tensors = _tensors(len(tokens["tokenizer.ggml.tokens"]), experts, shared)
    if callable(edit):
        edit(tensors)
    target = folder / "moe.gguf"
    writer = gguf.GGUFWriter(target, name)
    _add_metadata(writer, {**{f"{name}.{key}": value for key, value in _facts(experts, shared).items()}, **tokens})
    for key, value in tensors.items():
        stored = gguf.GGMLQuantizationType[kind if value.ndim > 1 else "F32"]
        writer.add_tensor(key, gguf.quants.quantize(np.ascontiguousarray(value), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _facts(experts: int, shared: bool) -> dict[str, object]:
    facts: dict[str, object] = {
        "vocab_size": 400,
        "context_length": 512,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": WIDTH // HEADS,
        "rope.freq_base": 10000.0,
        "expert_count": experts,
        "expert_used_count": 2,
    }
    return facts | ({"expert_feed_forward_length": FFN, "expert_shared_feed_forward_length": FFN} if shared else {})


def _tensors(rows: int, experts: int, shared: bool) -> dict[str, Floats]:
    random = np.random.default_rng(experts)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (rows, WIDTH), "output.weight": (rows, WIDTH)}
    for n in range(LAYERS):
        layer: dict[str, tuple[int, ...]] = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH // 2, WIDTH),
            "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate_inp": (experts, WIDTH),
            "ffn_gate_exps": (experts, FFN, WIDTH),
            "ffn_up_exps": (experts, FFN, WIDTH),
            "ffn_down_exps": (experts, WIDTH, FFN),
        }
        if shared:
            layer |= {"ffn_gate_inp_shexp": (WIDTH,), "ffn_gate_shexp": (FFN, WIDTH)}
            layer |= {"ffn_up_shexp": (FFN, WIDTH), "ffn_down_shexp": (WIDTH, FFN)}
        shapes |= {f"blk.{n}.{part}.weight": shape for part, shape in layer.items()}
        if shared:
            shapes |= {f"blk.{n}.attn_{part}.bias": (WIDTH if part == "q" else WIDTH // 2,) for part in "qkv"}
    tensors = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = [f"blk.{n}.{part}_norm.weight" for n in range(LAYERS) for part in ("attn", "ffn")]
    return tensors | {name: random.normal(1, 0.1, WIDTH).astype(np.float32) for name in [*norms, "output_norm.weight"]}
