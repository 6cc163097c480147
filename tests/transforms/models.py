"""Small models of transformers for transforms to rewrite: weights by name in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from fewbits.models import Architecture, for_config
from references.random_models import small_config

Weights = dict[str, torch.Tensor]


class Model(NamedTuple):
    """A model to rewrite."""

    network: Any
    weights: Weights
    architecture: Architecture
    config: dict[str, Any]

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])


KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "llama with biases": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "llama, one head each": (transformers.LlamaConfig, {"num_key_value_heads": 4}),
    "llama of width 48": (transformers.LlamaConfig, {"hidden_size": 48, "head_dim": 12}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen2, tied": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 32}),
    "mistral": (transformers.MistralConfig, {}),
}
POCKET = Path(__file__).parent.parent.parent / "examples" / "models" / "pocket-llama"


def model_of(kind: str, seed: int = 0) -> Model:
    """A random model: wide weights, no norm and no bias left where it starts."""
    made, changes = KINDS[kind]
    config = small_config(made, rows=40, initializer_range=0.1, **changes)
    torch.manual_seed(seed)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_((1.0 if "norm" in name else 0.0) + 0.3 * torch.randn_like(parameter))
    return _described(network)


def pocket() -> Model:
    """The model that comes with the project."""
    return _described(transformers.AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32))


def _described(network: Any) -> Model:
    config = {**network.config.to_dict(), "architectures": [type(network).__name__]}
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    return Model(network, weights, for_config(config), config)


def logits(model: Model, weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """What a model of the same shape with `weights` says, its head tied only where it has no weight of its own."""
    config = type(model.network.config).from_dict(model.network.config.to_dict())
    config.tie_word_embeddings = "lm_head.weight" not in weights
    network = type(model.network)(config)
    network.load_state_dict(
        {name: w.float() for name, w in weights.items()}, strict=not config.tie_word_embeddings, assign=True
    )
    if config.tie_word_embeddings:
        network.tie_weights()
    with torch.no_grad():
        said: torch.Tensor = network.eval()(tokens).logits
    return said


def tokens_of(model: Model, seed: int = 0) -> torch.Tensor:
    """(3, 24) tokens."""
    return torch.randint(0, model.config["vocab_size"], (3, 24), generator=torch.Generator().manual_seed(seed))


def inputs_of(model: Model, weights: Weights, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What reaches every matrix (tokens, cols), by the name of its weight."""
    network = type(model.network)(model.network.config)
    network.load_state_dict({name: w.float() for name, w in weights.items()}, strict=False)
    seen: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, given, name=name: seen.update({f"{name}.weight": given[0].flatten(0, 1)})
            )
    with torch.no_grad():
        network.eval()(tokens)
    return seen
