"""Models that stick out in a few channels and compute what they computed before: what transforms are made for."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Weights = dict[str, torch.Tensor]


def with_outliers(weights: Mapping[str, torch.Tensor], layers: int, *, seed: int = 0, times: float = 30.0) -> Weights:
    """A llama's weights, in every layer a few channels behind each norm and before down_proj `times` larger.

    The gain of a norm, or the rows of up_proj, are multiplied; the columns that read them are divided.
    """
    drawn = torch.Generator().manual_seed(seed)
    result = {name: w.clone() for name, w in weights.items()}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for producer, consumers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
            ("mlp.up_proj", ("mlp.down_proj",)),
        ):
            rows = result[f"{at}{producer}.weight"]
            chosen = torch.randperm(len(rows), generator=drawn)[: max(2, len(rows) // 32)]
            for name in (f"{at}{producer}.weight", f"{at}{producer}.bias"):
                if name in result:
                    result[name][chosen] *= times
            for consumer in consumers:
                result[f"{at}{consumer}.weight"][:, chosen] /= times
    return result


def sticking_out(weights: Mapping[str, torch.Tensor], layers: int, *, seed: int = 0) -> Weights:
    """A llama's weights, those that read three channels of the residual stream far larger than the others."""
    drawn = torch.Generator().manual_seed(seed)
    result = {name: w.clone() for name, w in weights.items()}
    width = result["model.norm.weight"].shape[0]
    chosen = torch.randperm(width, generator=drawn)[:3]
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            result[f"{at}{name}.weight"][:, chosen] *= 6
    return result
