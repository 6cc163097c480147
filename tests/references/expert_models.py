"""Small random models with experts, with the embedded model's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


def configuration(kind: str, rows: int = 4096, **changes: Any) -> Any:
    """A configuration with four experts, two of them chosen, or with `kind` "qwen3_moe" eight and three."""
    sizes = {**SIZES, "vocab_size": rows, **changes}
    if kind == "mixtral":
        return transformers.MixtralConfig(**{"num_local_experts": 4, "num_experts_per_tok": 2, **sizes})
    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
    if kind == "qwen2_moe":
        return transformers.Qwen2MoeConfig(**{**experts, "shared_expert_intermediate_size": 48, **sizes})
    return transformers.Qwen3MoeConfig(**{**experts, "norm_topk_prob": True, "head_dim": 32, **sizes})


def write_experts(path: Path, kind: str = "mixtral", *, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A random model of `kind` in a directory."""
    torch.manual_seed(7)
    network = transformers.AutoModelForCausalLM.from_config(configuration(kind, **changes))
    network.to(dtype).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET / name, path / name)
    stated = json.loads((path / "config.json").read_text(encoding="utf-8"))
    original = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    stated |= {key: value for key, value in original.items() if key.endswith("token_id")}
    (path / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    return path
