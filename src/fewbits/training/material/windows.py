"""Examples as windows that a model can take, and windows as batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.errors import TrainingError
from fewbits.training.fitting.losses import IGNORED
from fewbits.training.fitting.order import shuffled
from fewbits.training.material.words import Example, Ids

SHORTEST = 8
"""Tokens of a window."""


@dataclass(frozen=True)
class Window:
    """Tokens (n,) that the model sees together, and their labels (n,)."""

    ids: Ids
    labels: Ids

    @property
    def learned(self) -> int:
        """Tokens that are to be predicted."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True)
class Windows:
    """Windows, and what a person should know about them."""

    windows: tuple[Window, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return sum(len(window.ids) for window in self.windows)

    @property
    def learned(self) -> int:
        """Tokens that are to be predicted."""
        return sum(window.learned for window in self.windows)

    def sha256(self) -> str:
        """Of all ids and labels (int64, little-endian), each window after its length."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(len(window.ids).to_bytes(8, "little"))
            digest.update(window.ids.astype("<i8").tobytes() + window.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def split(self, share: float) -> tuple[Windows, Windows]:
        """All but the last windows, and these: a `share` of them, at least one; none where there is one alone."""
        count = min(max(1, round(share * len(self))), len(self) - 1) if share else 0
        kept = len(self) - count
        return Windows(self.windows[:kept], self.notes), Windows(self.windows[kept:])


def held_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """`examples` without those that are held out, and these: a `share` of them, at least one where there are two."""
    count = min(max(1, round(share * len(examples))), len(examples) - 1) if share else 0
    chosen = set(shuffled(len(examples), seed, -1)[:count])
    rest = [example for number, example in enumerate(examples) if number not in chosen]
    return rest, [examples[number] for number in sorted(chosen)]


def packed(examples: Sequence[Example], length: int) -> Windows:
    """Examples one after another, cut into windows of `length` tokens; the last one may be shorter."""
    ids = np.concatenate([example.ids for example in examples])
    labels = np.concatenate([example.labels for example in examples])
    found = [
        Window(ids[first : first + length], labels[first : first + length]) for first in range(0, len(ids), length)
    ]
    kept = tuple(window for window in found if window.learned)
    return Windows(kept)


def apart(examples: Sequence[Example], length: int, *, cut: bool) -> Windows:
    """One window per example; what is longer than `length` is `cut` there, or refused with TrainingError.

    Of an answer that begins behind the cut nothing is left to learn: such an example is left out, and a note says so.
    """
    long = [example for example in examples if len(example.ids) > length]
    if long and not cut:
        raise TrainingError(
            f"{long[0].where} has {len(long[0].ids)} tokens, and a window has {length} ({len(long)} of {len(examples)} "
            "are longer); give a longer --sequence-length, have them cut with --cut, or shorten them."
        )
    found = [Window(example.ids[:length], example.labels[:length]) for example in examples]
    kept = tuple(window for window in found if window.learned)
    notes = [f"{len(long)} of {len(examples)} examples were cut at {length} tokens"] if long else []
    if len(kept) < len(found):
        notes.append(
            f"{len(found) - len(kept)} examples were left out: nothing to learn was left of them after the cut"
        )
    if not kept:
        raise TrainingError(f"{examples[0].where} and all others are empty after the cut at {length} tokens; cut less.")
    return Windows(kept, tuple(notes))


class TokenBatches:
    """Windows as batches of `size`, in a new order at each pass (order.Batches).

    >>> windows = Windows(tuple(Window(np.arange(n), np.arange(n)) for n in (3, 2)))
    >>> batch = TokenBatches(windows, 2, seed=0, pad=9).at(0)
    >>> batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist()
    ([[0, 1, 2], [0, 1, 9]], [[0, 1, 2], [0, 1, -100]], [[1, 1, 1], [1, 1, 0]])
    """

    def __init__(self, windows: Windows, size: int, *, seed: int, pad: int) -> None:
        if size < 1:
            raise TrainingError(f"batch={size} is not a number of windows (1 or more); correct it.")
        self._windows, self._size, self._seed, self._pad = windows.windows, size, seed, pad
        self._turn: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return (len(self._windows) + self._size - 1) // self._size

    def at(self, position: int) -> dict[str, Any]:
        """The batch at `position`: "input_ids" and "labels" (rows, length), "attention_mask" where rows are padded."""
        turn, place = divmod(position, len(self))
        if self._turn is None or self._turn[0] != turn:
            self._turn = (turn, shuffled(len(self._windows), self._seed, turn))
        chosen = self._turn[1][place * self._size : (place + 1) * self._size]
        return together([self._windows[number] for number in chosen], self._pad)

    def in_order(self) -> list[dict[str, Any]]:
        """All batches of one pass, windows as they come."""
        starts = range(0, len(self._windows), self._size)
        return [together(self._windows[first : first + self._size], self._pad) for first in starts]


def together(windows: Sequence[Window], pad: int) -> dict[str, Any]:
    """Windows as one batch, shorter ones filled with `pad` at their end."""
    import torch

    longest = max(len(window.ids) for window in windows)
    ids = torch.full((len(windows), longest), pad, dtype=torch.int64)
    labels, seen = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.from_numpy(window.ids)
        labels[row, : len(window.ids)] = torch.from_numpy(window.labels)
        seen[row, : len(window.ids)] = 1
    batch = {"input_ids": ids, "labels": labels}
    return batch if bool(seen.all()) else batch | {"attention_mask": seen}
