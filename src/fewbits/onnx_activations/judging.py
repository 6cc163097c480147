"""How far the outputs of two graphs are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fewbits.onnx_activations.graph import Array


@dataclass
class OutputSums:
    """Of one output: sums of squared differences, of squares, and of cosines of its rows."""

    name: str
    difference: float = 0.0
    size: float = 0.0
    cosines: float = 0.0
    rows: int = 0

    @property
    def error(self) -> float:
        """Squared difference over the square of the original; 0 where both are 0."""
        return self.difference / self.size if self.size else float(self.difference > 0)

    @property
    def cosine(self) -> float:
        """The mean cosine of rows, each all numbers along the last side."""
        return self.cosines / self.rows if self.rows else 1.0


@dataclass
class Distance:
    """All float outputs of a graph."""

    outputs: list[OutputSums] = field(default_factory=list)

    @staticmethod
    def of(names: Sequence[str]) -> Distance:
        """Nothing seen yet."""
        return Distance([OutputSums(name) for name in names])

    def add(self, original: Sequence[Array], found: Sequence[Array]) -> None:
        """Compare what one batch gave; outputs that are whole numbers are compared as such."""
        for sums, one, other in zip(self.outputs, original, found, strict=True):
            if one.dtype.kind not in "fiub" or not one.size:
                continue
            a, b = (each.astype(np.float64).reshape(-1, each.shape[-1] if each.ndim else 1) for each in (one, other))
            sums.difference += float(np.square(a - b).sum())
            sums.size += float(np.square(a).sum())
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            told = norms > 0
            sums.cosines += float(((a * b).sum(1)[told] / norms[told]).sum())
            sums.rows += int(told.sum())

    @property
    def error(self) -> float:
        """The largest squared relative error of an output."""
        return max((each.error for each in self.outputs if each.size), default=0.0)
