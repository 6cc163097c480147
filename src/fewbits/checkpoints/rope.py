"""RoPE between two conventions: the order of rows, and how a stretched context is stated in a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import Order, Placement, StoredTensor, Value
from fewbits.checkpoints.configuration import Configuration, float32
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def interleaved(rows: int, heads: int) -> Order:
    """Source row of each target row, (rows,): the halves of each of `heads` heads become neighbouring pairs.

    transformers rotates element i of a head against element i + width / 2; llama.cpp rotates 2i against 2i + 1.

    >>> interleaved(8, 2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = np.arange(rows, dtype=np.int64).reshape(heads, 2, rows // heads // 2)
    return halves.swapaxes(1, 2).reshape(rows)


def parted(rows: int, heads: int, key_heads: int) -> Order:
    """Source row of each target row, (rows,): a checkpoint has each of `key_heads` heads of keys and values behind the
    queries that share it; a GGUF file has all queries, all keys, all values.

    >>> parted(12, 2, 2).tolist(), parted(8, 2, 1).tolist()
    ([0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    shared = heads // key_heads
    together = np.arange(rows, dtype=np.int64).reshape(key_heads, shared + 2, rows // (heads + 2 * key_heads))
    queries, keys, values = together[:, :shared], together[:, shared], together[:, shared + 1]
    return np.concatenate([part.reshape(-1) for part in (queries, keys, values)])


def _number(config: Configuration, key: str, default: float | None = None) -> float:
    value = config.rope.get(key, default)
    if type(value) not in (int, float) or not 0 < (value or 0) < 1e30:
        raise CheckpointError(
            f"{config.path} has the RoPE parameter {key} = {quoted(value)}, and a positive number is needed."
        )
    return float(value or 0)


def _linear(config: Configuration, prefix: str) -> dict[str, Value]:
    return {
        f"{prefix}.type": Value("linear", "string"),
        f"{prefix}.factor": float32(_number(config, "factor")),
    }


def _yarn(config: Configuration, prefix: str) -> dict[str, Value]:
    """YaRN (https://arxiv.org/abs/2309.00071): llama.cpp multiplies by 1 + 0.1 ln(factor) itself."""
    if config.rope.get("truncate") is False and not config.architecture.rounds_yarn:
        raise CheckpointError(f"{config.path} asks for YaRN with truncate = false, which a GGUF file cannot state.")
    original = _number(config, "original_max_position_embeddings", float(config.values["max_position_embeddings"]))
    factor = _number(config, "factor", config.values["max_position_embeddings"] / original)
    result = {
        f"{prefix}.type": Value("yarn", "string"),
        f"{prefix}.factor": float32(factor),
        f"{prefix}.original_context_length": Value(int(original), "uint32"),
    }
    for key in ("beta_fast", "beta_slow"):
        if key in config.rope:
            result[f"{prefix}.yarn_{key}"] = float32(_number(config, key))
    if config.architecture.scores_yarn:
        return {**result, f"{prefix}.yarn_log_multiplier": _log_multiplier(config)}
    attention = _yarn_attention(config, factor)
    if attention is not None:
        usual = 1.0 if factor <= 1 else 1.0 + 0.1 * math.log(factor)
        result[f"{prefix}.attn_factor"] = float32(attention / usual)
    return result


def _log_multiplier(config: Configuration) -> Value:
    """What the logarithm of YaRN's factor is multiplied by, as llama.cpp's files of DeepSeek state it: a tenth of that.

    It takes mscale to be the same number, so that cosine and sine are multiplied by nothing.
    """
    every, own = _number(config, "mscale_all_dim"), config.rope.get("mscale")
    if own != every or config.rope.get("attention_factor") not in (None, 1.0):
        raise CheckpointError(
            f"{config.path} has the RoPE parameters mscale = {quoted(own)} and mscale_all_dim = {quoted(every)}, and "
            f"llama.cpp computes architecture '{config.architecture.gguf}' with equal ones alone; it cannot be "
            "converted."
        )
    return float32(0.1 * every)


def _yarn_attention(config: Configuration, factor: float) -> float | None:
    """The factor on cosine and sine where the configuration states another than the usual 1 + 0.1 ln(factor)."""
    if "attention_factor" in config.rope:
        return _number(config, "attention_factor")
    if config.rope.get("mscale") and config.rope.get("mscale_all_dim"):
        scale = 0.0 if factor <= 1 else 0.1 * math.log(factor)
        return (1 + scale * _number(config, "mscale")) / (1 + scale * _number(config, "mscale_all_dim"))
    return None


def _longrope(config: Configuration, prefix: str) -> dict[str, Value]:
    """LongRoPE (https://arxiv.org/abs/2402.13753): its factors are tensors; the factor on cosine and sine is stated."""
    original = _number(config, "original_max_position_embeddings")
    factor = _number(config, "factor", config.values["max_position_embeddings"] / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        f"{prefix}.original_context_length": Value(int(original), "uint32"),
        f"{prefix}.attn_factor": float32(_number(config, "attention_factor", usual)),
    }


_SCALINGS: Mapping[str, Callable[[Configuration, str], dict[str, Value]]] = MappingProxyType(
    {"linear": _linear, "yarn": _yarn, "longrope": _longrope}
)


def scaling_metadata(config: Configuration) -> dict[str, Value]:
    """The metadata that states how RoPE is stretched; raises CheckpointError for a kind that GGUF cannot state."""
    if not config.architecture.rotates:
        return {}
    kind = config.rope["rope_type"]
    supported = config.architecture.rope_types
    if kind not in supported:
        raise CheckpointError(
            f"{config.path} asks for RoPE scaling {quoted(kind)}, which a GGUF file of architecture "
            f"'{config.architecture.gguf}' cannot state; supported: {', '.join(supported)}."
        )
    # "default" needs no word, and Llama 3's kind is a tensor of its own.
    state = _SCALINGS.get(kind)
    return state(config, f"{config.architecture.gguf}.rope.scaling") if state else {}


def frequency_factors(config: Configuration) -> tuple[Placement, ...]:
    """Divisors of the RoPE frequencies, (rotated width / 2,) float32 each, for kinds of scaling that have some."""
    make = _FACTORS.get(config.rope["rope_type"]) if config.architecture.rotates else None
    return tuple(_factors(name, numbers) for name, numbers in make(config).items()) if make else ()


def _factors(name: str, numbers: npt.NDArray[np.float64]) -> Placement:
    factors = numbers.astype("<f4")
    return Placement(name, StoredTensor(name, "F32", factors.shape, factors.view(np.uint8)), computed=True)


def _llama3_factors(config: Configuration) -> dict[str, npt.NDArray[np.float64]]:
    """Llama 3's: wavelengths below original / high_freq_factor stay, those above original / low_freq_factor are
    stretched by factor, and those between go smoothly from one to the other (the Llama 3.1 reference implementation).
    """
    factor = _number(config, "factor")
    low, high = _number(config, "low_freq_factor"), _number(config, "high_freq_factor")
    original = _number(config, "original_max_position_embeddings")
    if not low < high:
        raise CheckpointError(
            f"{config.path} has low_freq_factor {low}, not below high_freq_factor {high}; correct it."
        )
    width = config.values["head_dim"]
    wavelengths = 2 * np.pi * float(config.values["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    share = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return {FREQUENCIES: 1.0 / ((1.0 - share) / factor + share)}


def _long_factors(config: Configuration) -> dict[str, npt.NDArray[np.float64]]:
    """LongRoPE's two lists: for texts beyond the original context, and for the others."""
    return {LONG: _list(config, "long_factor"), SHORT: _list(config, "short_factor")}


def _list(config: Configuration, key: str) -> npt.NDArray[np.float64]:
    stated, pairs = config.rope.get(key), config.values["rotary_dim"] // 2
    numbers = stated if isinstance(stated, list) and all(type(n) in (int, float) and n > 0 for n in stated) else []
    if len(numbers) != pairs:
        raise CheckpointError(f"{config.path} needs {pairs} positive numbers as {key} of RoPE; correct it.")
    return np.array(numbers, np.float64)


_FACTORS: Mapping[str, Callable[[Configuration], dict[str, npt.NDArray[np.float64]]]] = MappingProxyType(
    {"llama3": _llama3_factors, "longrope": _long_factors}
)


def scaling_notes(config: Configuration) -> list[str]:
    """What a person should know about how RoPE is stretched."""
    note = _NOTES.get(config.rope["rope_type"])
    return note(config) if note else []


def _longrope_notes(config: Configuration) -> list[str]:
    original = int(_number(config, "original_max_position_embeddings"))
    note = (
        f"RoPE has factors for texts of up to {original} tokens and others beyond; transformers chooses by the length "
        "of the text, and llama.cpp by the size of the context that it was started with."
    )
    return [note]


def _yarn_notes(config: Configuration) -> list[str]:
    note = (
        "The source takes YaRN's two bounds as they are (truncate = false), and llama.cpp rounds them to whole "
        "numbers: some columns of heads turn a little faster or slower there, so results differ from the source's."
    )
    return [note] if config.rope.get("truncate") is False else []


_NOTES: Mapping[str, Callable[[Configuration], list[str]]] = MappingProxyType(
    {"longrope": _longrope_notes, "yarn": _yarn_notes}
)
