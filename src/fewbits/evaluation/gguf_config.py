"""A GGUF file's metadata as a transformers configuration, through the architecture facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Reader, Value
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.rope import LONG, SHORT
from fewbits.errors import EvaluationError
from fewbits.evaluation.decoding import decoded
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
_LOG_MULTIPLIER = "yarn_log_multiplier"
_SCALING_TYPES = {"none": "default", "linear": "linear", "yarn": "yarn"}
_KINDS: Mapping[str, tuple[type, str]] = MappingProxyType(
    {
        "uint32": (int, "one number"),
        "float32": (float, "one number"),
        "bool": (bool, "true or false"),
        "string": (str, "a text"),
    }
)
"""GGUF type of a metadata value -> what it has to be here."""
_SCALING_HANDLED = {"type", "attn_factor"}
# A remark on the model's history that changes no number.
_SCALING_IGNORED = {"finetuned"}


@dataclass(frozen=True)
class GGUFConfig:
    """What the network of a GGUF file looks like: transformers' model type and configuration values."""

    model_type: str
    values: dict[str, Any]
    facts: dict[str, tuple[str, TensorFact]]
    """GGUF name -> (parameter of the network, fact); where a fact sees it as a stack, the stack."""
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Width of fused tensors -> the widths that it is the sum of."""


def read_config(reader: Reader) -> GGUFConfig:
    """The configuration that the metadata and the list of tensors give; raises EvaluationError or CheckpointError."""
    metadata = {key: value.value if isinstance(value, Value) else value for key, value in reader.metadata.items()}
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise EvaluationError(f"{reader.path}: the metadata name no architecture (general.architecture).")
    architecture = for_gguf(name, experts=bool(metadata.get(f"{name}.expert_count")), metadata=metadata)
    values = {**_optional_parts(reader, architecture), **_stated(reader, architecture, metadata)}
    architecture.take_sums_apart(values)
    architecture.add_sums(values)
    layers = values.get("num_hidden_layers", 0)
    if layers > len(reader.names()):
        raise EvaluationError(
            f"{reader.path}: the metadata claim {layers} layers, and the file has {len(reader.names())} tensors; it is "
            "damaged or unsafe."
        )
    _fill_defaults(reader, architecture, values)
    values = {**{key: allowed[0] for key, allowed in architecture.require.items()}, **values}
    values |= _implied(architecture, values)
    architecture.settle(values)
    values |= {fact.key: fact.value_for(values) for fact in architecture.needed}
    if architecture.encoder:
        values["architectures"] = [architecture.classes[0]]
    facts = architecture.network(values, values["num_hidden_layers"])
    values |= {own: values[key] for key, own in architecture.aliases.items() if key in values}
    # Nothing is padded here, and transformers' own number could lie beyond this vocabulary; some need one all the same.
    padding = architecture.defaults.get("pad_token_id")
    values |= {"pad_token_id": padding, **_rope(reader, architecture, metadata, values)}
    kept = {name: each for name, each in facts.items() if not each[1].aside}
    return GGUFConfig(architecture.model_type, values, kept, architecture.widths)


def _rope(
    reader: Reader, architecture: Architecture, metadata: Mapping[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """The rotation of positions, taken out of `values`; nothing where positions are learned."""
    if not architecture.rotates:
        return {}
    rope = _rope_parameters(reader, architecture, metadata, values.pop("rope_theta"))
    rotated = values.pop("rotary_dim", values["head_dim"])
    rope |= {"partial_rotary_factor": rotated / values["head_dim"]} if rotated != values["head_dim"] else {}
    # transformers' Phi-3 has the original length twice, and goes by this one.
    length = {key: rope[key] for key in ("original_max_position_embeddings",) if rope["rope_type"] == "longrope"}
    return {"rope_parameters": _by_kind(architecture, values, rope), **length}


def _implied(architecture: Architecture, values: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp takes for granted of a model of these widths."""
    layers = values["num_hidden_layers"]
    each_head = values["hidden_size"] // values["num_attention_heads"]
    known = {"head": values["head_dim"], "hidden": values["hidden_size"], "hidden / heads": each_head}
    found: dict[str, Any] = {key: known[width] for key, width in architecture.implications(layers).items()}
    kinds = architecture.kinds(layers)
    return {**found, "layer_types": kinds} if kinds else found


def _by_kind(architecture: Architecture, values: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """RoPE parameters as transformers states them: for all layers, or for each kind of them."""
    local = architecture.local_rope
    if local is None:
        return rope
    base = values.pop(local.base, architecture.defaults[local.base])
    return {local.others: rope, local.kind: {"rope_theta": base, "rope_type": "default"}}


def _stated(reader: Reader, architecture: Architecture, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration values that the metadata state; keys that share one value must agree."""
    values: dict[str, Any] = {}
    for key, fact in architecture.metadata.items():
        if key not in metadata:
            continue
        value = metadata[key]
        wanted, what = _KINDS[fact.type]
        if type(value) is not wanted:
            raise EvaluationError(f"{reader.path}: {key} is {quoted(value)}, not {what}, which is not supported.")
        if values.setdefault(fact.key, value) != value:
            raise EvaluationError(
                f"{reader.path}: {key} is {value}, but another key says {values[fact.key]}; this is not supported."
            )
    return values


def _optional_parts(reader: Reader, architecture: Architecture) -> dict[str, Any]:
    """Tied embeddings and biases: the tensors of the first layer say which parts the model has."""
    stored = set(reader.names())
    parts: dict[str, Any] = {}
    counts = {fact.key for fact in architecture.metadata.values()}
    for fact in architecture.tensors:
        if {fact.when, fact.unless} & counts:  # a number says it; without one there is none
            parts[fact.when or fact.unless] = None
            continue
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
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    for key in (*needed, architecture.epsilon, "max_position_embeddings"):
        if not values.get(key):
            raise EvaluationError(f"{reader.path}: the metadata do not state {key.replace('_', ' ')}.")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])


def _rope_parameters(
    reader: Reader, architecture: Architecture, metadata: Mapping[str, Any], base: float
) -> dict[str, Any]:
    """The scaling of rotary positions; raises EvaluationError for a kind that would be computed wrongly."""
    prefix = f"{architecture.gguf}.rope.scaling."
    stated = {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}
    kind = stated.get("type", "none")
    own = {_LOG_MULTIPLIER} if architecture.scores_yarn else set()
    unknown = sorted(set(stated) - set(_SCALING) - _SCALING_HANDLED - _SCALING_IGNORED - own)
    if kind not in _SCALING_TYPES or unknown:
        what = f"the kind {quoted(kind)}" if kind not in _SCALING_TYPES else f"the key {prefix}{unknown[0]}"
        raise EvaluationError(f"{reader.path}: RoPE scaling with {what} is not supported.")
    parameters = {"rope_theta": base, "rope_type": _SCALING_TYPES[kind]}
    if kind != "none":
        parameters |= {_SCALING[key]: value for key, value in stated.items() if key in _SCALING}
    if _LOG_MULTIPLIER in stated:  # files of DeepSeek state a tenth of both
        parameters |= dict.fromkeys(("mscale", "mscale_all_dim"), 10 * stated[_LOG_MULTIPLIER])
    if "attn_factor" in stated:
        # llama.cpp multiplies YaRN's own 1 + 0.1 ln(factor) by it; transformers is given the product.
        usual = 1 + 0.1 * math.log(max(stated.get("factor", 1.0), 1.0))
        parameters["attention_factor"] = stated["attn_factor"] * usual
    return parameters | _long_factors(reader, stated)


def _long_factors(reader: Reader, stated: Mapping[str, Any]) -> dict[str, Any]:
    """LongRoPE's lists of factors, which a file holds as tensors; raises EvaluationError where one of two is there."""
    present = [name for name in (LONG, SHORT) if name in reader.names()]
    if not present:
        return {}
    if len(present) < 2 or "original_context_length" not in stated:
        raise EvaluationError(f"{reader.path}: {present[0]} is there and not all that belongs to it.")
    factors = {
        key: decoded(reader.read(name)).tolist() for key, name in (("long_factor", LONG), ("short_factor", SHORT))
    }
    original = stated["original_context_length"]
    return {**factors, "rope_type": "longrope", "original_max_position_embeddings": original}
