"""Sites: the tensors of a model as a recipe sees them, with just the facts that rules ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.checkpoints.base import Conversion, Placement, Value

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")

KINDS = (
    "token_embd",
    "output",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)
"""What a rule can name; every other matrix is "other", and what no recipe quantizes is "kept"."""

_KEPT = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight", "attn_rel_b.weight")
"""Endings of tensors that stay in 16 or 32 bits in every recipe: norms, routers of experts, tables of positions."""

_KEPT_PARTS = re.compile(
    r"ssm_conv1d|shortconv\.conv|time_mix_(first|lerp_fused|decay_w[12]|[avw][012]|g[12])|altup|laurel|per_layer_model_proj"
)
"""Parts of names of small matrices that llama.cpp reads in 16 or 32 bits only (Mamba, RWKV, Gemma 3n and others)."""


@dataclass(frozen=True)
class Site:
    """One tensor of the target with its neighbours' facts."""

    name: str
    kind: str
    shape: tuple[int, ...]
    layer: int
    """0 outside layers."""
    layers: int
    tied: bool
    """The model has no output matrix of its own: the embedding serves as one."""
    grouped_query: bool

    @property
    def cols(self) -> int:
        """Width of the reduction."""
        return self.shape[-1]


def find_sites(conversion: Conversion) -> dict[str, Site]:
    """Target name -> site, for every tensor of the conversion."""
    names = {p.name for p in conversion.placements}
    layers = _number(conversion, "block_count", 0)
    heads = _number(conversion, "attention.head_count", 1)
    grouped = _number(conversion, "attention.head_count_kv", heads) != heads
    tied = "output.weight" not in names
    return {p.name: _site(p, layers, tied, grouped) for p in conversion.placements}


def _number(conversion: Conversion, key: str, default: int) -> int:
    metadata: Mapping[str, Value] = conversion.metadata
    value = metadata.get(f"{conversion.architecture}.{key}")
    return int(value.value) if value is not None and not isinstance(value.value, list) else default


def _site(placement: Placement, layers: int, tied: bool, grouped: bool) -> Site:
    name, shape = placement.name, placement.source.shape
    found = _LAYER.fullmatch(name)
    part = found[2] if found else name.removesuffix(".weight")
    kept = placement.computed or len(shape) < 2 or not name.endswith("weight") or name.endswith(_KEPT)
    kept = kept or bool(_KEPT_PARTS.search(name))
    kind = "kept" if kept else part if part in KINDS else "other"
    return Site(name, kind, shape, int(found[1]) if found else 0, layers, tied, grouped)
