"""Training with quantization: the loop, and what is trained; everything is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.finetuning import finetune
    from fewbits.training.history import History, Step
    from fewbits.training.loop import fit
    from fewbits.training.material import Reading
    from fewbits.training.settings import Settings

__all__ = ["History", "Reading", "Settings", "Step", "finetune", "fit"]

_PLACES = {
    "History": "history",
    "Reading": "material",
    "Settings": "settings",
    "Step": "history",
    "finetune": "finetuning",
    "fit": "loop",
}
"""Name -> the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fewbits.training' has no attribute {name!r}")
    value = getattr(import_module(f"fewbits.training.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
