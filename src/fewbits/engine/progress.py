"""How far the work before a text is: weights repacked for this processor, the prompt read."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total), of bytes or tokens."""

PREPARE, READ = "prepare", "read"
"""The stages."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
