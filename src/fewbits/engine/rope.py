"""How fast each pair of columns of a head turns from position to position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.engine.building import numbers_of
from fewbits.engine.source import Source
from fewbits.errors import EngineError

_DIVISORS = "rope_freqs.weight"
"""Divisors of the frequencies (Llama 3.1's scaling), one per pair."""


def frequencies(source: Source, parameters: Mapping[str, Any], width: int) -> tuple[npt.NDArray[np.float32], float]:
    """Radians per position of each pair of a head of `width` columns, and a factor of sines and cosines.

    `parameters` are transformers' `rope_parameters`. Raises EngineError for a scaling that is not computed here.
    """
    turning = int(width * parameters.get("partial_rotary_factor", 1.0))
    kind = parameters.get("rope_type", "default")
    if kind not in _KINDS:
        raise EngineError(
            f"{source.path}: RoPE of the kind {kind!r} is not computed here; known are {', '.join(_KINDS)}."
        )
    base = np.float32(parameters["rope_theta"])
    plain = np.float32(1) / base ** (np.arange(0, turning, 2, dtype=np.float32) / np.float32(turning))
    scaled, factor = _KINDS[kind](plain, parameters)
    if source.has(_DIVISORS):
        divisors = np.array(numbers_of(source.read(_DIVISORS)), np.float32)
        if divisors.size != scaled.size:
            raise EngineError(f"{source.path}: RoPE has {divisors.size} factors for {scaled.size} pairs.")
        scaled = scaled / divisors
    return scaled.astype(np.float32), factor


def _plain(plain: npt.NDArray[np.float32], _: Mapping[str, Any]) -> tuple[npt.NDArray[np.float32], float]:
    return plain, 1.0


def _linear(plain: npt.NDArray[np.float32], parameters: Mapping[str, Any]) -> tuple[npt.NDArray[np.float32], float]:
    return plain / np.float32(parameters["factor"]), 1.0


_KINDS = {"default": _plain, "linear": _linear}
