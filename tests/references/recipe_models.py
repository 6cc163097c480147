"""Models as names and shapes, without weights: between them they lead llama.cpp's choice of types down every path.

Widths are small, but layers, experts and heads are counted as in real models, because the choices depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelShape:
    """`facts` are metadata without the architecture's prefix; `shapes` are in numpy's order."""

    architecture: str
    facts: dict[str, Any]
    shapes: Shapes


def _facts(layers: int, heads: int, kv: int, **more: Any) -> dict[str, Any]:
    return {
        "context_length": 512,
        "embedding_length": 256,
        "block_count": layers,
        "feed_forward_length": 512,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def _layers(count: int, make: Callable[[int], Shapes]) -> Shapes:
    return {f"blk.{n}.{name}.weight": shape for n in range(count) for name, shape in make(n).items()}


def _around(shapes: Shapes, width: int, *, tied: bool = False, rows: int = 320) -> Shapes:
    ends = {"output_norm.weight": (width,)} | ({} if tied else {"output.weight": (rows, width)})
    return {"token_embd.weight": (rows, width), **shapes, **ends}


def _attention(width: int, kv_rows: int) -> Shapes:
    return {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (kv_rows, width),
        "attn_v": (kv_rows, width),
        "attn_output": (width, width),
        "ffn_norm": (width,),
    }


def _mlp(width: int, ffn: int) -> Shapes:
    return {"ffn_gate": (ffn, width), "ffn_up": (ffn, width), "ffn_down": (width, ffn)}


def _experts(count: int, width: int, ffn: int) -> Shapes:
    return {
        "ffn_gate_inp": (count, width),
        "ffn_gate_exps": (count, ffn, width),
        "ffn_up_exps": (count, ffn, width),
        "ffn_down_exps": (count, width, ffn),
    }


def _shared(width: int, ffn: int) -> Shapes:
    return {
        "ffn_gate_inp_shexp": (width,),
        "ffn_gate_shexp": (ffn, width),
        "ffn_up_shexp": (ffn, width),
        "ffn_down_shexp": (width, ffn),
    }


def dense(
    layers: int,
    heads: int,
    kv: int,
    *,
    architecture: str = "llama",
    width: int = 256,
    ffn: int = 512,
    tied: bool = False,
) -> ModelShape:
    """Llama and its kin."""
    kv_rows = max(32, width * kv // heads)
    shapes = _layers(layers, lambda _: _attention(width, kv_rows) | _mlp(width, ffn))
    return ModelShape(architecture, _facts(layers, heads, kv), _around(shapes, width, tied=tied))


def experts(
    layers: int,
    heads: int,
    kv: int,
    count: int,
    *,
    architecture: str = "llama",
    shared: bool = False,
    dense_layers: int = 0,
    fused: bool = False,
    **more: Any,
) -> ModelShape:
    """Mixtral, Qwen-MoE and their kin; the first `dense_layers` have no experts."""

    def layer(n: int) -> Shapes:
        attention = _attention(256, 256 * kv // heads)
        if n < dense_layers:
            return attention | _mlp(256, 512)
        return attention | _experts(count, 256, 256) | (_shared(256, 512) if shared else {})

    facts = _facts(layers, heads, kv, expert_count=count, expert_used_count=2, **more)
    facts["expert_feed_forward_length"] = 256
    return ModelShape(architecture, facts, _around(_layers(layers, layer), 256))


def fused(
    layers: int, heads: int, kv: int, *, architecture: str, tied: bool = False, gate: bool = False, **more: Any
) -> ModelShape:
    """Phi-3, Falcon, MPT: one matrix for queries, keys and values."""

    def layer(_: int) -> Shapes:
        attention = {"attn_norm": (256,), "attn_qkv": (512, 256), "attn_output": (256, 256)}
        return attention | {"ffn_up": (1024 if gate else 512, 256), "ffn_down": (256, 512)}

    return ModelShape(architecture, _facts(layers, heads, kv, **more), _around(_layers(layers, layer), 256, tied=tied))


def deepseek(*, split: bool) -> ModelShape:
    """Latent attention: keys and values in one matrix, or (split) in two of three dimensions."""

    def layer(n: int) -> Shapes:
        attention: Shapes = {
            "attn_norm": (256,),
            "attn_q_a": (128, 256),
            "attn_q_a_norm": (128,),
            "attn_q_b": (256, 128),
            "attn_kv_a_mqa": (160, 256),
            "attn_kv_a_norm": (128,),
            "attn_output": (256, 256),
            "ffn_norm": (256,),
        }
        attention |= {"attn_k_b": (4, 128, 64), "attn_v_b": (4, 64, 128)} if split else {"attn_kv_b": (512, 256)}
        return attention | (_mlp(256, 512) if n == 0 else _experts(16, 256, 256) | _shared(256, 256))

    more = {
        "expert_count": 16,
        "expert_used_count": 2,
        "expert_feed_forward_length": 256,
        "expert_shared_count": 1,
        "attention.q_lora_rank": 128,
        "attention.kv_lora_rank": 128,
        "leading_dense_block_count": 1,
    }
    return ModelShape("deepseek2", _facts(30, 4, 1 if split else 4) | more, _around(_layers(30, layer), 256))


def exceptional(architecture: str) -> ModelShape:
    """Architectures that llama.cpp names in its choices, with tensors that it keeps or raises for them alone."""

    def layer(n: int) -> Shapes:
        attention: Shapes = {
            "attn_norm": (256,),
            "attn_q_a": (128, 256),
            "attn_q_b": (256, 128),
            "attn_kv_a_mqa": (160, 256),
            "attn_k_b": (4, 128, 64),
            "attn_v_b": (4, 64, 128),
            "attn_output": (256, 256),
            "indexer.attn_k": (64, 256),
            "indexer.attn_q_b": (256, 128),
            "indexer.proj": (4, 256),
            "indexer.k_proj": (64, 256),
            "hc_attn_fn": (24, 256),
            "ssm_conv1d_q": (256, 4),
            "ssm_f_a": (64, 256),
            "ssm_beta": (4, 256),
            "nextn.eh_proj": (256, 512),
        }
        return attention | (_mlp(256, 512) if n == 0 else _experts(16, 256, 256) | _shared(256, 256))

    more = {
        "expert_count": 16,
        "expert_used_count": 2,
        "expert_feed_forward_length": 256,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "leading_dense_block_count": 1,
        "attention.q_lora_rank": 128,
        "attention.kv_lora_rank": 128,
        "attention.key_length": 160,
        "attention.value_length": 128,
        "attention.key_length_mla": 64,
        "attention.value_length_mla": 64,
        "attention.indexer.head_count": 4,
        "attention.indexer.key_length": 64,
        "attention.indexer.top_k": 8,
        "attention.indexer.kpool": 2,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "ssm.conv_kernel": 4,
        "kda.head_dim": 64,
        "kda.gate_lower_bound": -5.0,
    }
    return ModelShape(architecture, _facts(16, 4, 1) | more, _around(_layers(16, layer), 256))


def hybrid() -> ModelShape:
    """LFM2: attention in some layers only, short convolutions in the others."""

    def layer(n: int) -> Shapes:
        if n % 3 == 2:
            return _attention(256, 64) | _mlp(256, 512)
        mixing: Shapes = {"attn_norm": (256,), "shortconv.conv": (256, 3), "shortconv.in_proj": (768, 256)}
        return mixing | {"shortconv.out_proj": (256, 256), "ffn_norm": (256,)} | _mlp(256, 512)

    facts = _facts(16, 4, 1) | {
        "attention.head_count_kv": [1 if n % 3 == 2 else 0 for n in range(16)],
        "shortconv.l_cache": 3,
    }
    return ModelShape("lfm2", facts, _around(_layers(16, layer), 256, tied=True))


def gemma3n() -> ModelShape:
    """Small matrices that stay as they are, and a second embedding."""

    def layer(_: int) -> Shapes:
        small: Shapes = {
            "altup_correct_coef": (4, 4),
            "altup_router": (4, 256),
            "laurel_l": (64, 256),
            "inp_gate": (256, 256),
            "proj": (256, 256),
        }
        return _attention(256, 128) | _mlp(256, 512) | small

    rest: Shapes = {"per_layer_token_embd.weight": (320, 768), "per_layer_model_proj.weight": (768, 256)}
    rest |= {"altup_proj.weight": (3, 256, 256)}
    facts = _facts(30, 4, 2) | {"attention.sliding_window": 64, "attention.sliding_window_pattern": [True] * 30}
    return ModelShape("gemma3n", facts, _around(_layers(30, layer) | rest, 256, tied=True))


def t5() -> ModelShape:
    """Two stacks, whose names sort as text: layer 10 before layer 2."""
    shapes: Shapes = {}
    for n in range(12):
        for stack in ("enc", "dec"):
            prefix = f"{stack}.blk.{n}"
            both = {"attn_q": (256, 256), "attn_k": (256, 256), "attn_v": (256, 256), "attn_o": (256, 256)}
            both |= {"ffn_up": (512, 256), "ffn_down": (256, 512), "attn_rel_b": (4, 32)}
            if stack == "dec":
                both |= {f"cross_attn_{x}": (256, 256) for x in "qkvo"}
            shapes |= {f"{prefix}.{name}.weight": shape for name, shape in both.items()}
    facts = _facts(12, 4, 4) | {"attention.relative_buckets_count": 32}
    return ModelShape("t5", facts, _around(shapes, 256))


def bert() -> ModelShape:
    """Tables of positions and of token types."""
    rest: Shapes = {"position_embd.weight": (512, 256), "token_types.weight": (2, 256), "cls.weight": (256, 256)}
    shapes = _layers(12, lambda _: _attention(256, 256) | {"ffn_up": (512, 256), "ffn_down": (256, 512)})
    facts = _facts(12, 4, 4) | {"attention.causal": False}
    return ModelShape("bert", facts, _around(shapes | rest, 256, tied=True))


def rwkv7() -> ModelShape:
    """No attention at all, and many small matrices that stay as they are."""

    def layer(_: int) -> Shapes:
        small = {f"time_mix_{x}{n}": (64, 256) for x in "wvag" for n in (1, 2)}
        small |= {"time_mix_lerp_fused": (6, 1, 256), "time_mix_r_k": (4, 64), "attn_norm": (256,)}
        large = {f"time_mix_{name}": (256, 256) for name in ("receptance", "key", "value", "output")}
        return small | large | {"channel_mix_key": (1024, 256), "channel_mix_value": (256, 1024)}

    facts = _facts(12, 0, 0) | {
        "wkv.head_size": 64,
        "attention.decay_lora_rank": 64,
        "attention.iclr_lora_rank": 64,
        "attention.value_residual_mix_lora_rank": 32,
    }
    return ModelShape("rwkv7", facts, _around(_layers(12, layer), 256))


def odd_widths() -> ModelShape:
    """Rows of one matrix, tensors of a leading dimension 1, and columns that only 32 or 64 divide."""
    shapes = dense(8, 4, 1).shapes | {
        "blk.0.attn_k.weight": (1, 256),
        "blk.1.ffn_up.weight": (512, 320),
        "blk.2.ffn_up.weight": (512, 288),
        "blk.3.ffn_up.weight": (512, 48),
        "blk.4.ffn_up.weight": (1, 1, 256),
        "blk.5.ffn_up_exps.weight": (1, 512, 256),
    }
    return ModelShape("llama", _facts(8, 4, 1), shapes)


MODELS: dict[str, ModelShape] = {
    "llama gqa1 8 tied": dense(8, 4, 4, tied=True),
    "llama gqa2 16": dense(16, 4, 2),
    "llama gqa4 32": dense(32, 8, 2),
    "llama gqa8 40": dense(40, 8, 1),
    "llama gqa8 80": dense(80, 8, 1),
    "llama gqa1 80": dense(80, 4, 4),
    "llama gqa2 80": dense(80, 4, 2),
    "mistral gqa4 22": dense(22, 4, 1, ffn=256),
    "qwen2 gqa1 80": dense(80, 4, 4, architecture="qwen2"),
    "qwen2 width 224 tied": dense(8, 7, 1, architecture="qwen2", width=224, ffn=320, tied=True),
    "qwen2 width 288": dense(16, 4, 2, architecture="qwen2", width=288),
    "qwen3 gqa2 28 tied": dense(28, 4, 2, architecture="qwen3", ffn=256, tied=True),
    "llama ffn 352": dense(11, 4, 2, ffn=352),
    "llama width 48": dense(8, 4, 2, width=48, ffn=80),
    "mixtral 8 experts gqa4": experts(32, 8, 2, 8),
    "grok 8 experts gqa1": experts(24, 4, 4, 8, architecture="grok"),
    "llama 2 experts gqa1": experts(16, 4, 4, 2),
    "llama 4 experts gqa1": experts(16, 4, 4, 4),
    "qwen2moe 60 experts shared": experts(24, 4, 4, 60, architecture="qwen2moe", shared=True),
    "qwen3moe 128 experts gqa8": experts(24, 8, 1, 128, architecture="qwen3moe"),
    "gpt-oss 32 experts gqa8": experts(24, 8, 1, 32, architecture="gpt-oss", attention__sliding_window=128),
    "deepseek2 16 experts": deepseek(split=False),
    "deepseek2 16 experts split": deepseek(split=True),
    "glm5-next": exceptional("glm5-next"),
    "bailingmoe3": exceptional("bailingmoe3"),
    "phi3 fused gqa1": fused(32, 4, 4, architecture="phi3", gate=True, rope__dimension_count=64),
    "phi3 fused gqa4": fused(40, 8, 2, architecture="phi3", gate=True, rope__dimension_count=32),
    "falcon fused gqa71 tied": fused(32, 71, 1, architecture="falcon", tied=True),
    "falcon fused gqa16": fused(60, 16, 1, architecture="falcon"),
    "mpt fused gqa1 tied": fused(32, 4, 4, architecture="mpt", tied=True),
    "lfm2 hybrid": hybrid(),
    "gemma3n": gemma3n(),
    "t5": t5(),
    "bert": bert(),
    "rwkv7": rwkv7(),
    "odd widths": odd_widths(),
}


def conversion(model: ModelShape) -> Conversion:
    """The model as a source without weights."""
    placements = tuple(
        Placement(name, StoredTensor(name, "F16" if len(shape) > 1 else "F32", shape, np.empty(0, np.uint8)))
        for name, shape in model.shapes.items()
    )
    metadata = {f"{model.architecture}.{key}": Value(value, "any") for key, value in model.facts.items()}
    return Conversion(model.architecture, metadata, placements, files=())


def write_shapes(model: ModelShape, target: Path) -> Path:
    """A GGUF file of F16 tensors of these shapes; their numbers are a hole in the file and take no disk."""
    writer = gguf.GGUFWriter(target, model.architecture)
    for key, value in model.facts.items():
        name = f"{model.architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_array(name, value)
    size = 0
    for name, shape in model.shapes.items():
        count = int(np.prod(shape))
        kind = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        writer.add_tensor_info(name, shape, kind, count * kind.itemsize)
        size += -(-count * kind.itemsize // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with target.open("r+b") as file:
        head = -(-target.stat().st_size // 32) * 32
        file.truncate(head + size)
    return target
