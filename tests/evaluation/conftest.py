"""Models and a text that every machine has: the embedded model, and what CPython carries."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import pytest

from references.gguf_files import write_gguf

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


@pytest.fixture(scope="session")
def pocket() -> Path:
    return POCKET


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference manual as a text file."""
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pocket_f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as an F16 GGUF made by the gguf package."""
    return write_gguf(POCKET, tmp_path_factory.mktemp("gguf") / "pocket-f16.gguf")
