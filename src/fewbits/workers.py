"""Work on slabs in a few threads; results come back in order, so that they cannot depend on the number of threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

SLAB_BYTES = 4 << 20
"""Source bytes of a slab: large beside the cost of handing it over, small beside memory."""


def usable_threads(threads: int | None) -> int:
    """`threads`, or as many as this process may use processors."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`threads` worker threads; a context manager that waits for what runs and drops what does not run yet."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.cancelled = Event()
        """Set when the results are not wanted any more; long tasks look at it."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fewbits-worker")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Run `function` beside everything else."""
        return self._pool.submit(function)

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, in the order of the items; at most a few are in work or waiting at a time."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, self._pool.submit(function, item)))
            if len(waiting) > 2 * self.threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for item, future in waiting:
            yield item, future.result()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread for torch while several workers call it: more would wait, and might cut sums otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def row_slabs(rows: int, bytes_per_row: int, *, together: int = 1) -> Iterator[tuple[int, int]]:
    """Row ranges (start, stop) of about SLAB_BYTES each; `together` rows, tiles of them, are never divided.

    >>> list(row_slabs(5, SLAB_BYTES // 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, SLAB_BYTES // max(1, together * bytes_per_row)) * together
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
