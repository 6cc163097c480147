"""Arrays of strings as GGUF stores them, decoded when looked at: whoever copies a vocabulary reads no word of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import numpy.typing as npt

_LENGTH = 8
"""Bytes before each string that say how many follow."""


class Strings(Sequence[str]):
    """Strings in a mapped file; `starts` (count + 1,) says where each begins with its length, and where the last ends.

    >>> data = memoryview(bytes([1, 0, 0, 0, 0, 0, 0, 0, 65, 2, 0, 0, 0, 0, 0, 0, 0, 195, 132]))
    >>> list(Strings(data, np.array([0, 9, 19])))
    ['A', 'Ä']
    """

    def __init__(self, data: memoryview, starts: npt.NDArray[np.int64]) -> None:
        self._data = data
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin, end = self._starts[range(len(self))[index]], self._starts[range(len(self))[index] + 1]
        return str(self._data[begin + _LENGTH : end], "utf-8")

    def __iter__(self) -> Iterator[str]:
        bounds, data = self._starts.tolist(), self._data
        for begin, end in pairwise(bounds):
            yield str(data[begin + _LENGTH : end], "utf-8")

    def packed(self) -> bytes:
        """All strings with their lengths, as they are stored."""
        return bytes(self._data[self._starts[0] : self._starts[-1]])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return len(self) == len(other) and self.packed() == other.packed()
        return isinstance(other, list) and list(self) == other

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return repr(list(self))
