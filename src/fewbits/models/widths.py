"""The named widths of tensor shapes, out of configuration values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTHS = (
    "vocab",
    "hidden",
    "ffn",
    "ffn_dense",
    "head",
    "query",
    "key",
    "experts",
    "expert",
    "positions",
    "shared",
    "types",
    "heads",
    "q_rank",
    "kv_rank",
    "head_nope",
    "head_rope",
    "head_value",
    "mla_query",
    "mla_value",
)
"""Widths that every configuration gives, 0 where it has no such thing; an architecture may name sums of them.

"ffn_dense" is that of layers without experts, where experts have "ffn". Those behind "heads" are of attention with
latent keys and values (MLA, arXiv:2405.04434): the ranks of the latent queries and of the latent keys and values, the
parts of a head without and with RoPE, a head of values, and all heads of queries and of values.
"""


def widths_of(values: Mapping[str, Any], sums: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Name -> width in a model of configuration `values` (defaults filled in), those that are `sums` of others too."""
    heads = values["num_attention_heads"]
    nope, rope, value = (values.get(k) or 0 for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    shared = (values.get("n_shared_experts") or 0) * values.get("moe_intermediate_size", 0)
    own = {
        "vocab": values["vocab_size"],
        "hidden": values["hidden_size"],
        "ffn": values["intermediate_size"],
        "ffn_dense": values.get("intermediate_size_mlp", values["intermediate_size"]),
        "head": values["head_dim"],
        "query": heads * values["head_dim"],
        "key": values["num_key_value_heads"] * values["head_dim"],
        "experts": int(values.get("num_local_experts", 0)),
        "expert": values.get("moe_intermediate_size", values["intermediate_size"]),
        "positions": values["max_position_embeddings"],
        "shared": values.get("shared_expert_intermediate_size", shared),
        "types": values.get("type_vocab_size", 0),
        "heads": heads,
        "q_rank": values.get("q_lora_rank") or 0,
        "kv_rank": values.get("kv_lora_rank") or 0,
        "head_nope": nope,
        "head_rope": rope,
        "head_value": value,
        "mla_query": heads * (nope + rope),
        "mla_value": heads * value,
    }
    return own | {name: sum(own[part] for part in parts) for name, parts in sums.items()}
