"""How fast this machine reads memory: what bounds generation, which reads every weight once per token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

READ_BYTES = 512 << 20
"""Bytes that a turn reads: many times what a cache of the last level holds."""
TURNS = 9


class Memory:
    """`size` bytes that `threads` threads read, a part each; raises MemoryError where they cannot be had.

    The largest byte is asked for, which takes one instruction per vector register, so that memory is all that is waited
    for; numpy puts arrays of this size on large pages, as far as the system has them.
    """

    def __init__(self, threads: int, size: int = READ_BYTES) -> None:
        self._bytes: npt.NDArray[np.uint8] = np.empty(size, np.uint8)
        self._bytes.fill(1)  # pages that were never written are one page of zeros
        self._parts = np.array_split(self._bytes, threads)

    def bandwidth(self, turns: int = TURNS) -> float:
        """Bytes per second in the fastest of `turns`: what is asked for is the most that there is."""
        seconds = []
        with ThreadPoolExecutor(len(self._parts)) as pool:
            for _ in range(turns):
                began = time.perf_counter()
                list(pool.map(np.max, self._parts))
                seconds.append(time.perf_counter() - began)
        return self._bytes.nbytes / min(seconds)


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads of this machine read from memory."""
    return Memory(threads).bandwidth()
