"""What `quantize` was asked for, where it is about whole numbers in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.calibration import OBSERVERS
from fewbits.checkpoints.onnx.source import is_onnx
from fewbits.errors import CalibrationError, CheckpointError, RecipeError
from fewbits.onnx_activations.numbers import ROWS, TENSOR
from fewbits.planning import Rule, parse_overrides
from fewbits.planning.rule import names
from fewbits.request import Request

RECIPE = "w8a8"
USUAL_RECIPE = "Q4_K_M"
"""What `quantize` takes where nobody asks for a recipe; a graph has no such tensors."""
OBSERVER = "minmax"
STATIC, DYNAMIC = "static", "dynamic"
SUFFIX = ".npz"
FIRST_OPSET = 11


def wants_integers(request: Request) -> bool:
    """Whether `request` is about an ONNX graph and what it computes with, not about its weights alone."""
    if not is_onnx(Path(request.source)):
        return False
    return is_samples(request.calibration.text) or str(request.recipe).lower() == RECIPE


def is_samples(given: Any) -> bool:
    """Whether calibration inputs are arrays, and no text.

    >>> is_samples("inputs.npz"), is_samples({"x": [[1.0]]}), is_samples("words.txt")
    (True, True, False)
    """
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, Mapping):
        return True
    return isinstance(given, (str, Path)) and Path(given).suffix.lower() == SUFFIX


@dataclass(frozen=True)
class Asked:
    """What was asked for."""

    way: str
    """STATIC or DYNAMIC."""
    observer: str | None
    rules: tuple[Rule, ...]
    """Formats that the user gave to some constants."""

    @staticmethod
    def of(request: Request) -> Asked:
        """What `request` says; raises FewbitsError where it says what a graph cannot have."""
        _require_recipe(request)
        _require_plain(request)
        given = request.calibration.text is not None
        if request.observer is not None:
            OBSERVERS.get(request.observer)
            if not given:
                raise CalibrationError(
                    f"--observer {request.observer} chooses ranges from calibration inputs; give --calibration "
                    f"INPUTS{SUFFIX} too, or leave --observer out."
                )
        rules = parse_overrides(request.tensors)
        for rule in rules:
            if rule.format not in (ROWS, TENSOR, "F32"):
                raise RecipeError(
                    f"{rule.format} is no format of a matrix that multiplies rounded values; take {ROWS}, {TENSOR}, or "
                    "F32 for one that stays in floats."
                )
        observer = (request.observer or OBSERVER) if given else None
        return Asked(STATIC if given else DYNAMIC, observer, rules)

    def format_of(self, *called: str) -> str:
        """The format of a constant by one of its names: the first rule that means it, else a scale per output."""
        meant = (rule for rule in self.rules if any(names(rule.match[0], name) for name in called))
        return next((rule.format for rule in meant), ROWS)

    def require_met(self, called: Iterable[str]) -> None:
        """Raise RecipeError where a rule means none of these names."""
        known = list(called)
        for rule in self.rules:
            if not any(names(rule.match[0], name) for name in known):
                raise RecipeError(
                    f"nothing in the graph is called {rule.match[0]!r}, no constant and no output; see --dry-run "
                    "--json for names."
                )


def _require_recipe(request: Request) -> None:
    name = str(request.recipe)
    if name.lower() != RECIPE and name != USUAL_RECIPE:
        raise RecipeError(
            f"--calibration with arrays fixes the scales of a graph's values for --to {RECIPE}, and --to {name} is of "
            "weights alone; leave one of them out."
        )


def _require_plain(request: Request) -> None:
    """Refuse options that mean nothing here."""
    options = {
        "--importance": request.importance,
        "--method": request.method,
        "--guard": request.calibration.guard,
        "--target-text": request.calibration.targets or None,
        "--write-importance": request.calibration.importance,
        "--split-size": request.split_size,
        "--architecture": request.architecture,
        "--dialect": None if request.dialect == "qdq" else request.dialect,
    }
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise CheckpointError(
            f"{' and '.join(given)} mean nothing for a graph whose values are rounded; leave them out."
        )
