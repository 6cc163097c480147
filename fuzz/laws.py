"""Where models for fuzzing lie, and what every reader has to keep to."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
POCKET = ROOT / "examples" / "models" / "pocket-llama"
GOLDEN = ROOT / "tests" / "golden"


def require_sentence(error: Exception) -> None:
    """What is raised says one short sentence."""
    text = str(error)
    assert "\n" not in text, "a sentence is one line"
    assert len(text) < 2000, "a sentence is short"
