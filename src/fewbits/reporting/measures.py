"""What the guard of a calibrated run judges by, and what card and tables call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Measure:
    """A distance of two models on the guard's text; verdicts call it `key`_solved and `key`_plain."""

    key: str
    name: str
    """What it is, in a table's words."""
    short: str
    unit: str


KL = Measure("kl", "KL divergence", "KL", "nats per token")
"""Of the distributions over the next token, of models that continue text."""

STATE_ERROR = Measure(
    "state_error", "squared error of last states", "state error", "of the state's own square, per token"
)
"""|q - p|^2 / |p|^2 of the states behind the last layer, of encoders: these predict no token that could be compared."""

MEASURES: Mapping[str, Measure] = MappingProxyType({each.key: each for each in (KL, STATE_ERROR)})
"""Key -> measure."""
