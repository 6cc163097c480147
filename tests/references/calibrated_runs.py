"""Calibrated runs that end in the middle, and what a run's guard reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewbits.calibrated.session import Session, Solved


class BrokenError(Exception):
    """A run that ends in the middle."""


def breaking_after(calls: int) -> Callable[[str, int, int], None]:
    """A report of progress that raises BrokenError when the walk has reported so often."""
    seen = 0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal seen
        seen += stage == "calibrate"
        if seen == calls:
            raise BrokenError

    return report


def watched_guard_text(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """Where the guard's windows of every run to come are put."""
    held_out: list[np.ndarray[Any, Any]] = []
    solve = Session.solve

    def watched(session: Session, *arguments: Any) -> Solved:
        held_out.append(session.plan.held_out)
        return solve(session, *arguments)

    monkeypatch.setattr(Session, "solve", watched)
    return held_out
