"""How the next token is chosen from logits: the settings, and the native sampler that they make.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p (native/engine/sampler.h).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fewbits.errors import EngineError
from fewbits.kernels.module import native_module

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]
Mask = npt.NDArray[np.uint32]


class Sampler(Protocol):
    """The native sampler of one sequence; each choice takes the next random number of its seed."""

    def sample(self, logits: Floats, history: Tokens, allowed: Mask | None) -> int:
        """A token, or one of the native module's negative numbers that say why there is none."""


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    meaning: str

    def holds(self, value: float) -> bool:
        """Whether `value` is within."""
        return math.isfinite(value) and self.low <= value <= self.high


_RANGES: Mapping[str, _Range] = MappingProxyType(
    {
        "temperature": _Range(
            0.0, 100.0, "0 always takes the best token, 1 leaves the model's probabilities as they are"
        ),
        "top_k": _Range(0, 2**23, "so many of the best tokens are left, 0 leaves all"),
        "top_p": _Range(1e-6, 1.0, "the best tokens that have this share of the probability are left, 1 leaves all"),
        "min_p": _Range(0.0, 1.0, "tokens this many times as probable as the best one are left, 0 leaves all"),
        "repetition_penalty": _Range(0.01, 100.0, "1 is none, more makes tokens that were there less probable"),
        "repetition_window": _Range(0, 2**31 - 1, "so many tokens are looked back on, 0 looks at all"),
        "seed": _Range(0, 2**64 - 1, "the same seed chooses the same tokens"),
    }
)
_WHOLE = ("top_k", "repetition_window", "seed")


def _any_seed() -> int:
    return secrets.randbits(32)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of the choice; EngineError where one is out of its range. A seed that is not given is a random one.

    >>> Sampling(temperature=0).greedy, Sampling(seed=7).seed
    (True, 7)
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    seed: int = field(default_factory=_any_seed)

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name))

    @property
    def greedy(self) -> bool:
        """Whether the best token is always taken."""
        return self.temperature == 0

    def sampler(self) -> Sampler:
        """A native sampler for one sequence, at the seed's first random number."""
        made: Sampler = native_module().Sampler(**self.to_json())
        return made

    def to_json(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _check(name: str, value: object) -> None:
    allowed, whole = _RANGES[name], name in _WHOLE
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and allowed.holds(value):
        return
    kind = "a whole number" if whole else "a number"
    raise EngineError(
        f"sampling: {name} is {value!r}, and has to be {kind} from {allowed.low:.12g} to {allowed.high:.20g}: "
        f"{allowed.meaning}."
    )


def choose(sampler: Sampler, logits: Floats, history: Tokens, allowed: Mask | None = None) -> int:
    """The token after `history` (tokens,) that `sampler` takes by `logits` (vocabulary,).

    Bit t % 32 of `allowed[t // 32]` says whether token t may be taken. EngineError where no token is left, or where
    logits are no numbers.
    """
    token = sampler.sample(logits, history, allowed)
    explain_refusal(token)
    return token


def explain_refusal(token: int) -> None:
    """Raise EngineError where `token` is one of the native module's numbers that say why there is none."""
    if token == native_module().nothing_allowed:
        raise EngineError(
            "no token of the model's vocabulary may come next; its vocabulary cannot write what is wanted."
        )
    if token == native_module().not_numbers:
        raise EngineError(
            "the model's logits are no numbers (NaN or infinite); its file is damaged, quantize it again."
        )
