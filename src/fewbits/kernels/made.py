"""What is made of tensors for this processor, kept beside them as long as they live and are what they were."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry:
    """What was made, and of which state of the tensors."""

    state: tuple[tuple[int, int], ...]
    made: Any


class Made(Generic[T]):
    """A cache beside tensors: made anew when one of them is another tensor or has been written to.

    Writing that torch does not count (through numpy or `.data`) is not seen. Many threads may ask.

    >>> made, w = Made[float](), torch.ones(2)
    >>> made.of([w], lambda: float(w.sum())), made.of([w], lambda: 0.0)
    (2.0, 2.0)
    >>> made.of([w.add_(1)], lambda: float(w.sum()))
    4.0
    """

    def __init__(self) -> None:
        self._entries: MutableMapping[torch.Tensor, _Entry] = WeakTensorKeyDictionary()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, first: torch.Tensor) -> bool:
        return first in self._entries

    def of(self, tensors: Sequence[torch.Tensor], make: Callable[[], T]) -> T:
        """What was made of `tensors`, which lies beside the first of them; or what `make` makes now."""
        state = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        with self._lock:
            entry = self._entries.get(tensors[0])
            if entry is None or entry.state != state:
                entry = self._entries[tensors[0]] = _Entry(state, make())
        found: T = entry.made
        return found

    def forget(self, tensors: Sequence[torch.Tensor]) -> None:
        """Let go of what was made of `tensors`."""
        with self._lock:
            self._entries.pop(tensors[0], None)
