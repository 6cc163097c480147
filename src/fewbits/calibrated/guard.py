"""The guard: codes stay only where they leave less distance, end to end on held-out text, than plain codes do.

The distance is the KL divergence of the next token's distribution; of encoders, which predict none, the squared error
of the last states.

A lower error of a matrix's outputs does not always mean a better model. So at a few checkpoints the rest of the model,
in full precision, is run on guard text behind the layers since the last checkpoint, once with the method's codes and
once with plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.calibration.network import Head, LayeredNetwork
from fewbits.calibration.walk import Batches, States, advance, tensor_of
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch

TOKENS = 2048
"""Tokens of guard text."""

CHECKPOINTS = 8
"""Most checkpoints per model."""


@dataclass(frozen=True)
class Verdict:
    """What the guard found behind layers `first` to `last`, on average over the tokens of its text.

    `measure` is the key of what it measured (reporting/measures.py).
    """

    first: int
    last: int
    solved: float
    plain: float
    measure: str = "kl"

    @property
    def kept(self) -> bool:
        """Whether the method's codes stay."""
        return self.solved <= self.plain

    def to_json(self) -> dict[str, Any]:
        """As plain data; what was measured is in the names."""
        found = {f"{self.measure}_solved": self.solved, f"{self.measure}_plain": self.plain}
        return {"first": self.first, "last": self.last, **found, "measure": self.measure, "kept": self.kept}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        """What `to_json` made."""
        key = data.get("measure", "kl")
        return Verdict(data["first"], data["last"], data[f"{key}_solved"], data[f"{key}_plain"], key)


def spans(layers: int) -> list[range]:
    """Layers between checkpoints, as even as can be.

    >>> spans(10)
    [range(0, 1), range(1, 2), range(2, 3), range(3, 5), range(5, 6), range(6, 7), range(7, 8), range(8, 10)]
    """
    count = min(CHECKPOINTS, layers)
    edges = [layers * n // count for n in range(count + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def through(
    network: LayeredNetwork,
    layers: range,
    states: Mapping[str, States],
    batches: Sequence[Batches],
    workers: Workers,
    progress: Callable[[], None],
) -> dict[str, States]:
    """`states` of several kinds through `layers` in full precision, each layer read once."""
    now = {kind: np.array(each) for kind, each in states.items()}
    for index in layers:
        with network.layer(index) as layer:
            for each in now.values():
                advance(layer, network.layer_name(index), each, each, batches[index], workers, progress)
    return now


def divergences(
    head: Head,
    reference: States,
    states: Mapping[str, States],
    weights: Mapping[str, torch.Tensor],
    workers: Workers,
) -> dict[str, float]:
    """Mean KL divergence in nats per token of each of `states` from `reference`, under the head's own matrix.

    Counted over the second half of each window, which has seen enough of its text. Where `weights` names a kind, its
    logits are made by that matrix instead.
    """
    import torch

    own = head.module.weight
    found: dict[str, list[float]] = {kind: [] for kind in states}
    try:
        for at in range(0, len(reference), _TOGETHER):
            windows = range(at, min(at + _TOGETHER, len(reference)))
            expected = _log_probabilities(head, own, reference, windows, workers)
            for kind, each in states.items():
                weight = torch.nn.Parameter(weights[kind], requires_grad=False) if kind in weights else own
                answers = _log_probabilities(head, weight, each, windows, workers)
                found[kind] += [_kl(p, q) for p, q in zip(expected, answers, strict=True)]
    finally:
        head.module.weight = own
    return {kind: sum(each) / len(each) for kind, each in found.items()}


def state_error(reference: States, states: States) -> float:
    """Mean over tokens of |q - p|^2 / |p|^2: p from `reference`, q from `states`, both (windows, length, hidden).

    >>> p = np.array([[[3.0, 4.0], [0.0, 1.0]]], np.float32)
    >>> state_error(p, p + np.float32([0.0, 0.5]))
    0.13
    """
    found = [_squared_error(p, q) for p, q in zip(reference, states, strict=True)]
    return float(np.concatenate(found).mean())


def _squared_error(p: States, q: States) -> npt.NDArray[np.float64]:
    """One number per token (length,); 1 where the reference is all zeros."""
    wide, energy = p.astype(np.float64), np.square(p, dtype=np.float64).sum(-1)
    missed = np.square(q - wide).sum(-1)
    found: npt.NDArray[np.float64] = np.divide(missed, energy, out=np.ones_like(energy), where=energy > 0)
    return found


_TOGETHER = 2
"""Windows whose logits are in memory at once."""


def _log_probabilities(
    head: Head, weight: torch.nn.Parameter, states: States, windows: range, workers: Workers
) -> list[torch.Tensor]:
    import torch

    head.module.weight = weight

    def run(window: int) -> torch.Tensor:
        with torch.no_grad():
            logits = head.logits(tensor_of(states[window : window + 1, states.shape[1] // 2 :]))[0]
            return logits.float().log_softmax(-1)

    return [found for _, found in workers.in_order(run, windows)]


def _kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).double().mean())
