"""What all tests share: the embedded model, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The directory of the embedded model; tests that change it work on a copy."""
    return Path(__file__).parent.parent / "examples" / "models" / "pocket-llama"
