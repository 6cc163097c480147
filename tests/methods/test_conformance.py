"""Every registered method on every registered format; and the suite sees planted faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from fewbits import formats, methods
from fewbits.formats import Format
from fewbits.methods.nearest import Nearest
from fewbits.qtensor import QTensor
from fewbits.testing import check_method


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_nearest(name: str) -> None:
    """One test per format, so that several processes share them."""
    check_method(methods.get("nearest"), formats=[formats.get(name)])


def test_the_other_methods_make_something_else_small() -> None:
    assert set(methods.METHODS) == {"nearest", "gptq", "hqq", "search", "gptq_search"}, "see test_never_nearest.py"


@dataclass(frozen=True)
class Clipped(Nearest):
    """Loses the tails of its input."""

    def solve(self, w: torch.Tensor, format: Format, stats: Mapping[str, Any]) -> QTensor:
        return super().solve(w.clamp(-0.8 * w.abs().max(), 0.8 * w.abs().max()), format, stats)


@dataclass(frozen=True)
class Carried(Nearest):
    """Lets the error of a row reach the next one."""

    def solve(self, w: torch.Tensor, format: Format, stats: Mapping[str, Any]) -> QTensor:
        return super().solve(w + 0.1 * w.roll(1, 0), format, stats)


@dataclass(frozen=True)
class InPlace(Nearest):
    """Works on its input."""

    def solve(self, w: torch.Tensor, format: Format, stats: Mapping[str, Any]) -> QTensor:
        w *= 0.5
        return super().solve(w, format, stats)


@dataclass(frozen=True)
class Needy(Nearest):
    """Wants calibration data."""

    needs: frozenset[str] = frozenset({"hessian"})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Clipped(), "objective|other bytes"),
        (Carried(), "other bytes"),
        (InPlace(), "input was changed"),
        (Needy(), "needs the statistics"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_planted_fault_is_seen(method: Nearest, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(method, formats=[formats.get("Q4_K"), formats.get("Q5_1")])
