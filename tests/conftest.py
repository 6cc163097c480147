"""What all tests share: the embedded model, and no network."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# For the programs that tests start: this package, whatever is installed, and no network.
os.environ["PYTHONPATH"] = str(ROOT / "src")
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell that starts tests in the background has them ignore Ctrl-C, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Each process of a parallel run computes on one thread: more would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The directory of the embedded model; tests that change it work on a copy."""
    return ROOT / "examples" / "models" / "pocket-llama"
