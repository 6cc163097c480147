"""How fast this machine reads memory: what bounds generation, which reads every weight once per token."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

READ_BYTES = 512 << 20
"""Bytes that a turn reads: many times what a cache of the last level holds."""
TURNS = 9


def read_bandwidth(threads: int, *, size: int = READ_BYTES, turns: int = TURNS) -> float:
    """Bytes per second of `threads` threads that together read `size` bytes of memory: the median of `turns`.

    Each thread reads a part of its own in order. The largest byte is asked for, which takes one instruction per vector
    register, so that memory is all that is waited for. Raises MemoryError where `size` bytes cannot be had.
    """
    memory: npt.NDArray[np.uint8] = np.empty(size, np.uint8)
    memory.fill(1)  # pages that were never written are one page of zeros
    parts = np.array_split(memory, threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(turns):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - began)
    return size / statistics.median(seconds)
