"""Pages of graphs that torch logs and prints when it cannot export a module, kept from whoever reads our sentence."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from typing import Any


@contextmanager
def torch_is_quiet() -> Iterator[None]:
    """Nothing that this thread has torch log, or print to stderr, is shown; other threads are heard as before."""
    import_module("torch._dynamo")  # which makes torch's handlers anew when it is first imported
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handlers = _torch_handlers()
    for each in handlers:
        each.addFilter(of_others)
    try:
        with redirect_stderr(_OthersAlone(sys.stderr, thread)):
            yield
    finally:
        for each in handlers:
            each.removeFilter(of_others)


def _torch_handlers() -> list[logging.Handler]:
    """All handlers of torch's loggers, of which many have their own."""
    known = [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "torch"]
    return [handler for name in known for handler in logging.getLogger(name).handlers]


class _OthersAlone:
    """A stream that one thread cannot write to."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        """What other threads write."""
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
