"""Sentences of graded similarity (examples/data/sentence_pairs.tsv), and what a sentence encoder makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewbits.evaluation.ranks import spearman

Floats = npt.NDArray[np.float32]
PAIRS = Path(__file__).parents[1] / "examples" / "data" / "sentence_pairs.tsv"


@dataclass(frozen=True)
class Pairs:
    """Graded pairs."""

    grades: tuple[float, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """All, each once."""
        return list(dict.fromkeys([*self.first, *self.second]))


def read_pairs(path: Path = PAIRS) -> Pairs:
    """The pairs of a table: similarity, first, second."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    grades, first, second = zip(*lines, strict=True)
    return Pairs(tuple(map(float, grades)), first, second)


@dataclass(frozen=True)
class Judged:
    """How good embeddings are: their rank correlation with the grades, and their cosines to the original's."""

    spearman: float
    cosine: float
    lowest: float


def judge(pairs: Pairs, embeddings: Floats, original: Floats) -> Judged:
    """`embeddings` and `original` are (sentences, width), in the order of `pairs.sentences`."""
    ours, theirs = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (embeddings, original))
    place = {sentence: number for number, sentence in enumerate(pairs.sentences)}
    a, b = (ours[[place[each] for each in side]] for side in (pairs.first, pairs.second))
    cosines = (ours * theirs).sum(1)
    return Judged(spearman((a * b).sum(1), pairs.grades), float(cosines.mean()), float(cosines.min()))


def pooled(states: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    """The mean of the states (texts, tokens, width) of the tokens that `mask` (texts, tokens) names."""
    weights = mask[..., None].astype(np.float32)
    found: Floats = (states * weights).sum(1) / weights.sum(1)
    return found


Embeds = Callable[[Sequence[str]], Floats]
