"""A Hugging Face configuration, checked and filled in with what its architecture assumes where it is silent."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.models import Architecture, for_config
from fewbits.models.widths import widths_of

_COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "head_dim",
)
_SOME_COUNTS = (
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "type_vocab_size",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "n_shared_experts",
    "interleave_moe_layer_step",
)
"""Checked where they are stated."""

_LARGEST = 2**31 - 1
"""ggml's counts are 32-bit."""


_KINDS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "uint32": lambda value: type(value) is int and 0 <= value <= _LARGEST,
        "float32": lambda value: type(value) in (int, float) and abs(value) < 1e38,
        "bool": lambda value: type(value) is bool,
        "string": lambda value: isinstance(value, str),
    }
)
"""GGUF type -> whether a value of a configuration is of it."""


def float32(number: float) -> Value:
    """`number` as a GGUF file will hold it: rounded here, so that what was meant equals what is read back."""
    return Value(struct.unpack("<f", struct.pack("<f", number))[0], "float32")


@dataclass(frozen=True)
class Configuration:
    """What the conversion needs of config.json; `values` holds it with every default and derived value filled in."""

    path: Path
    architecture: Architecture
    values: Mapping[str, Any]
    rope: Mapping[str, Any]
    """RoPE parameters in one spelling: rope_type, and what that type needs (factor, low_freq_factor, ...)."""

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.values["num_hidden_layers"])

    @property
    def widths(self) -> dict[str, int]:
        """The named widths of the architecture's tensor shapes."""
        return widths_of(self.values, self.architecture.widths)

    @property
    def experts(self) -> int:
        """Number of experts in a layer; 0 without."""
        return int(self.values.get("num_local_experts", 0))

    def implied_width(self, width: str) -> int:
        """The width called `width`, or "hidden / heads"."""
        if width == "hidden / heads":
            return int(self.values["hidden_size"] // self.values["num_attention_heads"])
        return self.widths[width]

    def heads(self, width: str) -> int:
        """How many heads the width called `width` is made of: those of keys and values for "key", else all."""
        return int(self.values["num_key_value_heads" if width == "key" else "num_attention_heads"])


def _refuse_quantized(path: Path, raw: Mapping[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        if raw.get(key):
            stated = raw[key]
            method = stated.get("quant_method", "an unnamed method") if isinstance(stated, dict) else "some method"
            raise CheckpointError(
                f"{path} states that the model is already quantized ({method}); "
                "quantize the original model instead, never a second rounding; `fewbits convert` moves what it holds, "
                "as it is, to a GGUF file or another directory that has its formats."
            )


def _derive(architecture: Architecture, values: dict[str, Any]) -> None:
    """Fill in what follows from the other values where it is absent, or is called by another name."""
    for key, own in architecture.aliases.items():
        if own in values:
            values[key] = values[own]
    for key, times in architecture.multiples.items():
        if values.get(key) is None and isinstance(values.get("hidden_size"), int):
            values[key] = times * values["hidden_size"]
    if "num_experts" in values:
        values["num_local_experts"] = values["num_experts"]
    architecture.add_sums(values)
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = values.get("num_attention_heads")
    hidden, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if values.get("head_dim") is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        values["head_dim"] = hidden // heads
    architecture.settle(values)


def _check_counts(path: Path, values: Mapping[str, Any], *, rotates: bool) -> None:
    for key in (*_COUNTS, *(key for key in _SOME_COUNTS if key in values)):
        value = values.get(key)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise CheckpointError(
                f"{path} has {key} = {quoted(value)}, and a count of at least 1 is needed; correct it."
            )
    if values["num_attention_heads"] % values["num_key_value_heads"]:
        raise CheckpointError(
            f"{path} has {values['num_attention_heads']} attention heads, no multiple of its "
            f"{values['num_key_value_heads']} key-value heads; correct it."
        )
    if rotates and values["head_dim"] % 2:
        raise CheckpointError(f"{path} has heads of odd width {values['head_dim']}, which RoPE cannot rotate.")


def _usable_positions(path: Path, architecture: Architecture, values: Mapping[str, Any]) -> int:
    """Positions less those in front that nothing looks up; raises CheckpointError where none are left."""
    for key in {fact.after for fact in architecture.tensors if fact.after}:
        number = values.get(key)
        if type(number) is not int or not 0 <= number < values["max_position_embeddings"] - 1:
            raise CheckpointError(
                f"{path} has {key} = {quoted(number)}, behind which its {values['max_position_embeddings']} positions "
                "begin; correct it."
            )
    return architecture.usable_positions(values)


def _check_requirements(path: Path, architecture: Architecture, values: Mapping[str, Any]) -> None:
    for key, allowed in architecture.require.items():
        value = values.get(key)
        if value is not None and value not in allowed:
            raise CheckpointError(
                f"{path} has {key} = {quoted(value)}, which a GGUF file of architecture '{architecture.gguf}' cannot "
                f"state; it can state {' or '.join(repr(v) for v in allowed)}."
            )
    key = architecture.epsilon
    eps = values.get(key)
    if type(eps) not in (int, float) or not 0 < (eps or 0) < 1:
        raise CheckpointError(f"{path} has {key} = {quoted(eps)}, and a number between 0 and 1 is needed; correct it.")


def _check_layers(config: Configuration) -> None:
    """Refuse what is said layer by layer, or by the number of layers, otherwise than llama.cpp takes it to be."""
    values, architecture, layers = config.values, config.architecture, config.layers
    for key, pattern in architecture.repeats.items():
        stated = values.get(key)
        if stated and stated != [pattern[n % len(pattern)] for n in range(layers)]:
            raise _computed_otherwise(config, f"a {key} that does not repeat {list(pattern)}")
    for key, counts in architecture.silent_in.items():
        if (values.get(key) is None) != (layers in counts):
            said = "no" if values.get(key) is None else "a"
            numbers = " or ".join(map(str, counts))
            raise _computed_otherwise(config, f"{said} {key} and {layers} layers", f"without one at {numbers} layers")
    _check_sparse(config)


def _check_sparse(config: Configuration) -> None:
    """Refuse layers with experts that are not told as llama.cpp tells them."""
    sparse, values = config.architecture.sparse, config.values
    if sparse is None:
        return
    for key, least in ((sparse.first, 0), (sparse.step, 1)):
        if key and not (type(values.get(key)) is int and least <= values[key] <= _LARGEST):
            raise CheckpointError(
                f"{config.path} has {key} = {quoted(values.get(key))}, which is no count; correct it."
            )
    listed, own = values.get(sparse.listed), [n for n in range(config.layers) if sparse.holds(n, values)]
    if listed is not None and listed != own:
        raise _computed_otherwise(config, f"a {sparse.listed} that is not what {sparse.step or sparse.first} says")


def _check_needed(config: Configuration) -> None:
    """Refuse values that llama.cpp takes from others and that are not those."""
    for fact in config.architecture.needed:
        value, stated = fact.value_for(config.values), config.values.get(fact.key)
        if value != stated:
            told = ", ".join(f"{key} = {config.values.get(key)}" for key in fact.where)
            raise _computed_otherwise(config, f"{fact.key} = {quoted(stated)}", f"with {quoted(value)} where {told}")


def _computed_otherwise(config: Configuration, stated: str, computed: str = "otherwise") -> CheckpointError:
    return CheckpointError(
        f"{config.path} has {stated}, and llama.cpp computes architecture '{config.architecture.gguf}' {computed}; it "
        "cannot be converted."
    )


def _check_stated(path: Path, architecture: Architecture, raw: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse what a GGUF file needs and is not said, and null where that means something it cannot state."""
    for key in architecture.stated:
        if key in raw and raw[key] is None:
            raise CheckpointError(
                f"{path} has {key} = null, which a GGUF file of architecture '{architecture.gguf}' cannot state."
            )
    for key in architecture.absent:
        if raw.get(key) is not None:
            raise CheckpointError(
                f"{path} has {key} = {quoted(raw[key])}, which a GGUF file of architecture '{architecture.gguf}' "
                "cannot state."
            )
    for fact in architecture.metadata.values():
        value = values.get(fact.key)
        if value is None and not fact.optional:
            raise CheckpointError(f"{path} states no {fact.key}, which a GGUF file needs; add it.")
        if value is not None and not _KINDS[fact.type](value):
            raise CheckpointError(f"{path} has {fact.key} = {quoted(value)}, which is no {fact.type}; correct it.")


def _check_implied(config: Configuration) -> None:
    """Refuse values and kinds of layers other than those that llama.cpp takes for granted."""
    values, architecture = config.values, config.architecture
    for key, width in architecture.implications(config.layers).items():
        expected = config.implied_width(width)
        if values.get(key, expected) != expected:
            raise CheckpointError(
                f"{config.path} has {key} = {quoted(values[key])}, and llama.cpp computes architecture "
                f"'{architecture.gguf}' with {expected} ({width}); it cannot be converted."
            )
    kinds = architecture.kinds(config.layers)
    if kinds and values.get("layer_types", kinds) != kinds:
        raise CheckpointError(
            f"{config.path} has layer_types that do not repeat {', '.join(architecture.layer_types)}, as llama.cpp "
            f"computes architecture '{architecture.gguf}'; it cannot be converted."
        )


def _rope(path: Path, architecture: Architecture, raw: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """RoPE parameters from the spelling of transformers 5 (rope_parameters) or 4 (rope_scaling and rope_theta)."""
    stated = _global_rope(path, architecture, raw, values)
    if not isinstance(stated, dict) or any(isinstance(v, dict) for v in stated.values()):
        raise CheckpointError(f"{path} has RoPE parameters that differ by layer, which is not supported.")
    rope = {key: value for key, value in stated.items() if value is not None}
    rope["rope_type"] = rope.get("rope_type", rope.pop("type", "default"))
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        values["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if not architecture.rope_types:  # positions are learned
        return rope
    theta = values["rope_theta"]
    if type(theta) not in (int, float) or not 0 < theta < 1e30:
        raise CheckpointError(f"{path} has rope_theta = {quoted(theta)}, and a positive number is needed; correct it.")
    if values.get("original_max_position_embeddings") is not None:
        rope.setdefault("original_max_position_embeddings", values["original_max_position_embeddings"])
    values["rotary_dim"] = _rotary_width(path, values)
    return rope


def _rotary_width(path: Path, values: Mapping[str, Any]) -> int:
    """As many columns of a head as RoPE rotates."""
    share = values.get("partial_rotary_factor", 1.0)
    width = int(values["head_dim"] * share) if type(share) in (int, float) and 0 < share <= 1 else 0
    if width < 2 or width % 2:
        raise CheckpointError(
            f"{path} has partial_rotary_factor = {quoted(share)}, by which RoPE would rotate {width} of "
            f"{values['head_dim']} columns of a head, no even number of at least 2; correct it."
        )
    return width


def _global_rope(path: Path, architecture: Architecture, raw: Mapping[str, Any], values: dict[str, Any]) -> Any:
    """The parameters of all layers, or of those that have not a RoPE of their own; its base goes into `values`."""
    stated = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    local = architecture.local_rope
    if local is None or not isinstance(stated, dict) or not {local.kind, local.others} & set(stated):
        return stated
    own = stated.get(local.kind) or {}
    if own.get("rope_type", "default") != "default":
        raise CheckpointError(f"{path} stretches RoPE in layers of kind {local.kind}, which a GGUF file cannot state.")
    values[local.base] = own.get("rope_theta", values[local.base])
    return stated.get(local.others) or {}


def _of_language(path: Path, architecture: Architecture, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the configuration says of the language model, where that stands by itself in it."""
    key = architecture.nested.get(raw["architectures"][0]) if isinstance(raw["architectures"], list) else None
    if key is None:
        return raw
    own = raw.get(key)
    if not isinstance(own, dict):
        raise CheckpointError(f"{path} has no {key}, where a {raw['architectures'][0]} states its language model.")
    return own


def read_configuration(directory: Path, *, quantized: bool = False) -> Configuration:
    """config.json of a model directory; raises CheckpointError when it is missing, contradictory or not supported.

    A model that is `quantized` already is refused unless it may be.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} has no config.json; point to a complete Hugging Face model directory.")
    raw = load_object(path)
    try:
        architecture = for_config(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not quantized:
        _refuse_quantized(path, raw)
    raw = dict(_of_language(path, architecture, raw))
    values = {**architecture.defaults, **{key: value for key, value in raw.items() if value is not None}}
    _derive(architecture, values)
    _check_counts(path, values, rotates=architecture.rotates)
    rope = _rope(path, architecture, raw, values)
    values["usable_positions"] = _usable_positions(path, architecture, values)
    _check_requirements(path, architecture, values)
    _check_stated(path, architecture, raw, values)
    result = Configuration(path, architecture, values, rope)
    _check_implied(result)
    _check_layers(result)
    _check_needed(result)
    widths = result.widths
    for first, second in architecture.equal:
        if widths[first] != widths[second]:
            raise CheckpointError(
                f"{path} gives '{first}' width {widths[first]} and '{second}' width {widths[second]}, which must be "
                f"equal in a GGUF file of architecture '{architecture.gguf}'."
            )
    return result
