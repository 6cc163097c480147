"""A GGUF file's metadata as a transformers configuration, through the architecture facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.checkpoints.base import Reader, Value
from fewbits.errors import EvaluationError
from fewbits.models import Architecture, TensorFact, for_gguf

EMBEDDING = "token_embd.weight"

# What GGUF's specification says of a file that leaves a key out.
_DEFAULT_ROPE_BASE = 10000.0

# GGUF key under "<architecture>.rope.scaling." -> key of transformers' rope_parameters.
_SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_SCALING_TYPES = {"none": "default", "linear": "linear", "yarn": "yarn"}
_SCALING_HANDLED = {"type", "attn_factor"}
# A remark on the model's history that changes no number.
_SCALING_IGNORED = {"finetuned"}


@dataclass(frozen=True)
class GGUFConfig:
    """What the network of a GGUF file looks like: transformers' model type and configuration values."""

    model_type: str
    values: dict[str, Any]
    facts: dict[str, tuple[str, TensorFact]]
    """GGUF name -> (parameter of the network, fact)."""


def read_config(reader: Reader) -> GGUFConfig:
    """The configuration that the metadata and the list of tensors give; raises EvaluationError or CheckpointError."""
    metadata = {key: value.value if isinstance(value, Value) else value for key, value in reader.metadata.items()}
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise EvaluationError(f"{reader.path}: the metadata name no architecture (general.architecture).")
    architecture = for_gguf(name, experts=bool(metadata.get(f"{name}.expert_count")))
    values = {**_stated(reader, architecture, metadata), **_optional_parts(reader, architecture)}
    _fill_defaults(reader, architecture, values)
    values = {**{key: allowed[0] for key, allowed in architecture.require.items()}, **values}
    if architecture.rotates:
        values["rope_parameters"] = _rope_parameters(reader, name, metadata, values.pop("rope_theta"))
    if architecture.encoder:
        values["architectures"] = [architecture.classes[0]]
    facts = architecture.parameters(values, values["num_hidden_layers"])
    return GGUFConfig(architecture.name, values, {k: each for k, each in facts.items() if not each[1].aside})


def _stated(reader: Reader, architecture: Architecture, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration values that the metadata state; keys that share one value must agree."""
    values: dict[str, Any] = {}
    for key, (target, kind) in architecture.metadata.items():
        if key not in metadata:
            continue
        value = metadata[key]
        wanted = bool if kind == "bool" else int if "int" in kind else float
        what = "true or false" if wanted is bool else "one number"
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            raise EvaluationError(f"{reader.path}: {key} is {value!r}, not {what}, which is not supported.")
        if values.setdefault(target, value) != value:
            raise EvaluationError(
                f"{reader.path}: {key} is {value}, but another key says {values[target]}; this is not supported."
            )
    return values


def _optional_parts(reader: Reader, architecture: Architecture) -> dict[str, bool]:
    """Tied embeddings and biases: the tensors of the first layer say which parts the model has."""
    stored = set(reader.names())
    parts: dict[str, bool] = {}
    for fact in architecture.tensors:
        present = fact.gguf.format(layer=0) in stored
        if fact.when:
            parts[fact.when] = parts.get(fact.when, False) or present
        if fact.unless:
            parts[fact.unless] = not present
    return parts


def _fill_defaults(reader: Reader, architecture: Architecture, values: dict[str, Any]) -> None:
    """What a file may leave out, from its tensors and the specification; raises EvaluationError for the rest."""
    if EMBEDDING not in reader.names():
        raise EvaluationError(f"{reader.path}: there is no {EMBEDDING}; only whole language models can be evaluated.")
    rows = reader.read(EMBEDDING).shape[0]
    if values.setdefault("vocab_size", rows) != rows:
        raise EvaluationError(f"{reader.path}: {EMBEDDING} has {rows} rows for {values['vocab_size']} tokens.")
    if architecture.rotates:
        values.setdefault("rope_theta", _DEFAULT_ROPE_BASE)
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", architecture.epsilon)
    for key in (*needed, "max_position_embeddings"):
        if not values.get(key):
            raise EvaluationError(f"{reader.path}: the metadata do not state {key.replace('_', ' ')}.")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])


def _rope_parameters(reader: Reader, name: str, metadata: Mapping[str, Any], base: float) -> dict[str, Any]:
    """The scaling of rotary positions; raises EvaluationError for a kind that would be computed wrongly."""
    prefix = f"{name}.rope.scaling."
    stated = {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}
    kind = stated.get("type", "none")
    unknown = sorted(set(stated) - set(_SCALING) - _SCALING_HANDLED - _SCALING_IGNORED)
    if kind not in _SCALING_TYPES or unknown:
        what = f"the kind {kind!r}" if kind not in _SCALING_TYPES else f"the key {prefix}{unknown[0]}"
        raise EvaluationError(f"{reader.path}: RoPE scaling with {what} is not supported.")
    parameters = {"rope_theta": base, "rope_type": _SCALING_TYPES[kind]}
    if kind != "none":
        parameters |= {_SCALING[key]: value for key, value in stated.items() if key in _SCALING}
    if "attn_factor" in stated:
        # llama.cpp multiplies YaRN's own 1 + 0.1 ln(factor) by it; transformers is given the product.
        usual = 1 + 0.1 * math.log(max(stated.get("factor", 1.0), 1.0))
        parameters["attention_factor"] = stated["attn_factor"] * usual
    return parameters
