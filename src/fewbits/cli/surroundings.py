"""How the process behaves around a command: quiet libraries, and a kill request that cleans up."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

from fewbits.cli.failure import debugging

_QUIET_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Silence what the libraries beneath say to a programmer, and turn SIGTERM into an interrupt that cleans up."""
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it misses kernels for GPUs
    with warnings.catch_warnings(), _interrupt_on_sigterm():
        if not (sys.warnoptions or debugging()):
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
