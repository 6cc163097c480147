"""What all tests share: the embedded model, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# For the programs that tests start: this package, whatever is installed, and no network.
os.environ["PYTHONPATH"] = str(ROOT / "src")
os.environ["HF_HUB_OFFLINE"] = "1"
# Each process of a parallel run computes on one thread: more would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The directory of the embedded model; tests that change it work on a copy."""
    return ROOT / "examples" / "models" / "pocket-llama"
