"""How fast each pair of columns of a head turns from position to position.

All in single precision and in transformers' order of operations, so that the frequencies are those of its
`ROPE_INIT_FUNCTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.rope import FREQUENCIES
from fewbits.engine.source import Source
from fewbits.errors import EngineError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """Radians per position of each pair of columns (pairs,), and the factor of sines and cosines.

    With two lists, `longer` is that of sessions whose context is more than `shorter` tokens, whatever they have read so
    far: as in llama.cpp, and as in transformers for a text that is longer. Keys in a cache turn by one list only.
    """

    frequencies: Floats
    factor: float = 1.0
    longer: Floats | None = None
    shorter: int = 0


@dataclass(frozen=True)
class _Asked:
    """What a kind of scaling computes from: `powers` are base^(2 i / width) of each pair (pairs,)."""

    powers: Floats
    base: float
    parameters: Mapping[str, Any]
    context: int

    @property
    def width(self) -> int:
        """Columns of a head that turn."""
        return 2 * len(self.powers)

    def number(self, key: str, default: float) -> float:
        """A parameter, or `default` where nothing is said."""
        stated = self.parameters.get(key)
        return float(default if stated is None else stated)


def table_of(source: Source, parameters: Mapping[str, Any], width: int) -> Table:
    """How a head of `width` columns turns by transformers' `rope_parameters`.

    Raises EngineError for a scaling that is not computed here, or numbers that do not fit.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in _KINDS:
        raise EngineError(
            f"{source.path}: RoPE of the kind {kind!r} is not computed here; known are {', '.join(_KINDS)}."
        )
    turning = int(width * parameters.get("partial_rotary_factor", 1.0))
    if not 0 < turning <= width or turning % 2:
        raise EngineError(
            f"{source.path}: RoPE cannot turn {turning} of a head's {width} columns; the file is damaged."
        )
    exponents = np.arange(0, turning, 2, dtype=np.float32) / np.float32(turning)
    base = float(parameters["rope_theta"])
    asked = _Asked(np.float32(base) ** exponents, base, parameters, source.values["max_position_embeddings"])
    divisors = (
        source.numbers(FREQUENCIES) if source.has(FREQUENCIES) else None
    )  # Llama 3.1's scaling, as files state it
    for own in (divisors, *(parameters.get(key) for key in _LISTS)):
        if own is not None and len(own) != len(exponents):
            raise EngineError(f"{source.path}: RoPE has {len(own)} factors for {len(exponents)} pairs.")
    table = _KINDS[kind](asked)
    return table if divisors is None else replace(table, frequencies=table.frequencies / divisors)


def _plain(asked: _Asked) -> Table:
    return Table(np.float32(1) / asked.powers)


def _linear(asked: _Asked) -> Table:
    return Table(np.float32(1) / asked.powers / np.float32(asked.parameters["factor"]))


def _yarn(asked: _Asked) -> Table:
    """YaRN (https://arxiv.org/abs/2309.00071): pairs that turn often keep their pace, slow ones are stretched."""
    original = asked.number("original_max_position_embeddings", asked.context)
    factor = asked.number("factor", asked.context / original)

    def pair_of(turns: float) -> float:
        """The pair that turns so often over the original context, as a fraction."""
        return asked.width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(asked.base))

    low, high = pair_of(asked.number("beta_fast", 32.0)), pair_of(asked.number("beta_slow", 1.0))
    if asked.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, asked.width - 1)
    if low == high:
        high += 0.001  # no step: the ramp has a width
    pairs = np.arange(len(asked.powers), dtype=np.float32)
    kept = np.float32(1) - np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
    stretched, plain = np.float32(1) / (np.float32(factor) * asked.powers), np.float32(1) / asked.powers
    return Table(stretched * (np.float32(1) - kept) + plain * kept, _yarn_factor(asked, factor))


def _yarn_factor(asked: _Asked, factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    over, under = asked.number("mscale", 0.0), asked.number("mscale_all_dim", 0.0)
    return asked.number("attention_factor", scale(over) / scale(under) if over and under else scale(1.0))


def _longrope(asked: _Asked) -> Table:
    """LongRoPE (https://arxiv.org/abs/2402.13753): a factor for each pair, one list for short texts and one beyond."""
    original = asked.number("original_max_position_embeddings", asked.context)
    factor = asked.number("factor", asked.context / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    short, long = (np.float32(1) / (np.asarray(asked.parameters[key], np.float32) * asked.powers) for key in _LISTS)
    return Table(short, asked.number("attention_factor", usual), long, int(original))


def _llama3(asked: _Asked) -> Table:
    """Llama 3.1's (its reference implementation): short waves stay, long ones are stretched, those between go over."""
    original, factor = asked.number("original_max_position_embeddings", asked.context), asked.number("factor", 1.0)
    low, high = asked.number("low_freq_factor", 1.0), asked.number("high_freq_factor", 4.0)
    plain = np.float32(1) / asked.powers
    waves = np.float32(2 * math.pi) / plain
    smooth = (np.float32(original) / waves - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1) - smooth) * plain / np.float32(factor) + smooth * plain
    ends = np.where(waves > np.float32(original / low), plain / np.float32(factor), plain)
    inner = (waves >= np.float32(original / high)) & (waves <= np.float32(original / low))
    return Table(np.where(inner, between, ends))


_LISTS = ("short_factor", "long_factor")

_KINDS: Mapping[str, Callable[[_Asked], Table]] = MappingProxyType(
    {"default": _plain, "linear": _linear, "yarn": _yarn, "longrope": _longrope, "llama3": _llama3}
)
