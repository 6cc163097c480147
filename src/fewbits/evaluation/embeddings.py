"""What is measured on two encoders that read the same windows: angles between their states, and their embeddings.

With p a state or an embedding of the original and q that of the quantized model,

    cosine = p . q / (|p| |q|)          state error = |q - p|^2 / |p|^2

from float32 states, computed in float64. The state error is what the guard of a calibrated run judges by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.evaluation.metrics import Estimate, estimate

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


def pooled(states: torch.Tensor, mode: str) -> torch.Tensor:
    """The embedding (hidden,) float64 of `states` (tokens, hidden): their mean, or the first ("cls") or last of them.

    >>> import torch
    >>> pooled(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), "mean").tolist()
    [2.0, 2.0]
    """
    wide = states.double()
    return wide.mean(0) if mode == "mean" else wide[{"cls": 0, "last": -1}[mode]]


def cosines(p: Floats, q: Floats) -> Floats:
    """Cosines (n,) of the angles between rows of `p` and `q` (n, hidden); 0 where one of them is all zeros.

    >>> cosines(np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])).tolist()
    [0.96]
    """
    lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    found: Floats = np.divide((p * q).sum(1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return found


def state_errors(p: Floats, q: Floats) -> Floats:
    """|q - p|^2 / |p|^2 (n,) of rows of `p` and `q` (n, hidden); 1 where the original's state is all zeros.

    >>> state_errors(np.array([[3.0, 4.0]]), np.array([[3.0, 5.0]])).tolist()
    [0.04]
    """
    energy = (p * p).sum(1)
    found: Floats = np.divide(((q - p) ** 2).sum(1), energy, out=np.ones_like(energy), where=energy > 0)
    return found


def nearest_others(embeddings: Floats) -> npt.NDArray[np.int64]:
    """The number (n,) of the other embedding that is nearest by its angle to each of `embeddings` (n, hidden), n > 1.

    >>> nearest_others(np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])).tolist()
    [2, 2, 1]
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(lengths > 0, lengths, 1.0)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    found: npt.NDArray[np.int64] = likeness.argmax(1)
    return found


@dataclass
class EmbeddingTally:
    """Windows added up: one embedding of each and one number per token."""

    mode: str
    original: list[Floats] = field(default_factory=list)
    quantized: list[Floats] = field(default_factory=list)
    tokens: list[Floats] = field(default_factory=list)
    """Cosines of the states of a window's tokens."""
    errors: list[Floats] = field(default_factory=list)

    def add(self, original: torch.Tensor, quantized: torch.Tensor) -> None:
        """Add the states (tokens, hidden) that both models have of one window."""
        self.original.append(pooled(original, self.mode).numpy())
        self.quantized.append(pooled(quantized, self.mode).numpy())
        p, q = original.double().numpy(), quantized.double().numpy()
        self.tokens.append(cosines(p, q))
        self.errors.append(state_errors(p, q))

    def embedding_cosines(self) -> Floats:
        """One per window."""
        return cosines(np.stack(self.original), np.stack(self.quantized))

    def token_cosines(self) -> Floats:
        """One per token of every window."""
        return np.concatenate(self.tokens)

    def same_nearest(self) -> Estimate:
        """Share of the windows whose nearest other one, by their embeddings, is the same for both models."""
        same = nearest_others(np.stack(self.original)) == nearest_others(np.stack(self.quantized))
        return estimate([float(each) for each in same])

    def per_window(self, each: list[Floats]) -> Estimate:
        """The mean over tokens of each window, as a mean over windows."""
        return estimate([float(numbers.mean()) for numbers in each])
