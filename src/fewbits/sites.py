"""Sites: the tensors of a model as a recipe sees them, with just the facts that rules ask for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fewbits.checkpoints.base import Conversion, Value

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "attn_qkv.weight": "attn_qkv",
        "attn_kv_b.weight": "attn_kv_b",
        "attn_v.weight": "attn_v",
        "attn_k.weight": "attn_k",
        "attn_q.weight": "attn_q",
        "attn_output.weight": "attn_output",
        "ffn_up": "ffn_up",
        "ffn_gate": "ffn_gate",
        "ffn_down": "ffn_down",
    }
)
"""Part of a name -> kind; the first that is found counts. Experts and shared experts are of the kind of their part."""

KINDS = ("token_embd", "output", *ROLES.values())
"""What a rule can name; every other matrix is "other", and what no recipe quantizes is "kept"."""

VALUES = frozenset({"attn_v", "attn_qkv", "attn_kv_b"})
"""Matrices that hold values; llama.cpp counts them together."""

_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
"""Tables of positions and of kinds of tokens (BERT)."""

_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|attn_rel_b\.weight"  # norms, routers, T5's positions
    r"|altup|laurel|per_layer_model_proj"  # Gemma 3n
    r"|ssm_conv1d|shortconv\.conv\.weight"  # Mamba, LFM2
    r"|indexer\.[kq]_proj\.weight"  # MiniMax
    r"|time_mix_(first|lerp_fused|decay_w[12]|[avw][012]|g[12])\.weight"  # RWKV
    r"|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger"  # vision
    r"|a\.rvq\.codebook|mm\.a\.code_embd"  # audio
)
"""Parts of names of small or delicate tensors that stay in 16 or 32 bits in every recipe, as in llama.cpp."""

_KEPT_IN: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "glm5-next": re.compile(
            r"hc_|indexer\.attn_(q_b|k)|indexer\.proj|indexer_compressor_(gate|ape)"
            r"|ssm_([fg]_[ab]|beta)\.weight|attn_kv_a_mqa\.weight|attn_[kv]_b\.weight"
        )
    }
)
"""The same for one architecture alone."""

_LAYER = re.compile(r"(?:^|\.)blk\.(\d+)\.")
_ORDER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Model:
    """What rules ask about the model as a whole."""

    architecture: str
    layers: int
    experts: int
    """0 without experts."""
    heads: int
    key_heads: int
    """Heads of queries, and of keys and values, in the first layer."""
    tied: bool
    """The model has no output matrix of its own: the embedding serves as one."""
    values: int
    """Number of matrices that hold values."""

    @property
    def group(self) -> int:
        """Query heads that share one head of keys and values, rounded down; 0 without attention."""
        return self.heads // self.key_heads if self.key_heads else 0


@dataclass(frozen=True)
class Site:
    """One tensor of the target with its neighbours' facts."""

    name: str
    kind: str
    shape: tuple[int, ...]
    layer: int
    """0 outside layers."""
    ordinal: int
    """How many quantizable tensors of its kind come before it; kinds that hold values count as one."""
    model: Model

    @property
    def cols(self) -> int:
        """Width of the reduction."""
        return self.shape[-1]

    @property
    def stacked(self) -> bool:
        """Whether several matrices, those of experts mostly, lie in this one tensor."""
        return len(self.shape) > 2 and self.shape[-3] > 1

    @property
    def place(self) -> tuple[int, int]:
        """(position, positions) by which rules pick layers.

        As in llama.cpp, a matrix that holds values is told by its number among those, and a feed-forward matrix by its
        number among its kind; in models with experts, where a layer has several, by its layer.
        """
        if self.kind in VALUES:
            return self.ordinal, self.model.values
        counted = self.kind.startswith("ffn_") and self.model.experts <= 1
        return (self.ordinal if counted else self.layer), self.model.layers


def find_sites(conversion: Conversion) -> dict[str, Site]:
    """Target name -> site, for every tensor of the conversion."""
    shapes = {p.name: p.source.shape for p in conversion.placements}
    computed = {p.name for p in conversion.placements if p.computed or p.aside}
    model = _model(conversion, shapes)
    sites: dict[str, Site] = {}
    seen: Counter[str] = Counter()
    for name in sorted(shapes, key=_position):
        kept = name in computed or _is_kept(name, shapes[name], model.architecture)
        kind = "kept" if kept else kind_of(name)
        counted = "values" if kind in VALUES else kind
        layer = _LAYER.search(name)
        sites[name] = Site(name, kind, shapes[name], int(layer[1]) if layer else 0, seen[counted], model)
        seen[counted] += 1
    return {name: sites[name] for name in shapes}


def kind_of(name: str) -> str:
    """The kind of the matrix called `name`, kept or not.

    >>> kind_of("blk.3.ffn_down_exps.weight"), kind_of("blk.3.ssm_out.weight")
    ('ffn_down', 'other')
    """
    if name == "output.weight":
        return "output"
    if name in _EMBEDDINGS:
        return "token_embd"
    return next((kind for part, kind in ROLES.items() if part in name), "other")


def _position(name: str) -> tuple[int, str]:
    """llama.cpp's order of tensors: by layer, then by name."""
    layer = _ORDER.match(name)
    return (int(layer[1]) if layer else -1), name


def _is_kept(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    dimensions = len(shape) - next((n for n, size in enumerate(shape) if size > 1), len(shape))
    if dimensions < 2 or not name.endswith("weight") or name in _KEPT_NAMES:
        return True
    alone = _KEPT_IN.get(architecture)
    return bool(_KEPT.search(name) or (alone and alone.search(name)))


def _model(conversion: Conversion, names: Mapping[str, object]) -> Model:
    heads = _number(conversion, "attention.head_count", 0)
    return Model(
        architecture=conversion.architecture,
        layers=_number(conversion, "block_count", 0),
        experts=_number(conversion, "expert_count", 0),
        heads=heads,
        key_heads=_number(conversion, "attention.head_count_kv", heads),
        tied="output.weight" not in names,
        values=sum(kind_of(name) in VALUES for name in names),
    )


def _number(conversion: Conversion, key: str, default: int) -> int:
    """The metadata value `key`, or its first element where it is stated layer by layer."""
    stated: Value | None = conversion.metadata.get(f"{conversion.architecture}.{key}")
    if stated is None:
        return default
    value = stated.value
    if isinstance(value, list):
        value = value[0] if value else default
    return int(value) if isinstance(value, (int, float)) else default
