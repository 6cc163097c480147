"""Training with quantization: networks that learn while they compute with what they will be stored as."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.beginning import begin_at
    from fewbits.training.converting import convert
    from fewbits.training.distilling import distillation, states_loss, with_labels
    from fewbits.training.fakequant import FakeMatrix
    from fewbits.training.freezing import freeze_batch_norm
    from fewbits.training.llm import Schedule, distil, teach_layers
    from fewbits.training.preparing import calibrate, parameter_groups, prepare

__all__ = [
    "FakeMatrix",
    "Schedule",
    "begin_at",
    "calibrate",
    "convert",
    "distil",
    "distillation",
    "freeze_batch_norm",
    "parameter_groups",
    "prepare",
    "states_loss",
    "teach_layers",
    "with_labels",
]

_WHERE = {
    "FakeMatrix": "fakequant",
    "Schedule": "llm",
    "begin_at": "beginning",
    "calibrate": "preparing",
    "convert": "converting",
    "distil": "llm",
    "distillation": "distilling",
    "freeze_batch_norm": "freezing",
    "parameter_groups": "preparing",
    "prepare": "preparing",
    "states_loss": "distilling",
    "teach_layers": "llm",
    "with_labels": "distilling",
}
"""Name -> the file that has it, loaded when it is asked for: peft and others are not everybody's."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fewbits.training' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"fewbits.training.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
