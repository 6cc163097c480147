"""Training with quantization: networks that learn in the numbers they are stored as, adapters on packed bases, a loop.

Everything is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.converting import convert
    from fewbits.training.distilling import distillation, states_loss, with_labels
    from fewbits.training.fakequant import FakeMatrix
    from fewbits.training.finetuning import finetune
    from fewbits.training.freezing import freeze_batch_norm
    from fewbits.training.history import History, Step
    from fewbits.training.loop import fit
    from fewbits.training.lora import add_lora
    from fewbits.training.material import Reading
    from fewbits.training.preparing import calibrate, parameter_groups, prepare
    from fewbits.training.settings import Settings
    from fewbits.training.teaching import qat

__all__ = [
    "FakeMatrix",
    "History",
    "Reading",
    "Settings",
    "Step",
    "add_lora",
    "calibrate",
    "convert",
    "distillation",
    "finetune",
    "fit",
    "freeze_batch_norm",
    "parameter_groups",
    "prepare",
    "qat",
    "states_loss",
    "with_labels",
]

_WHERE = {
    "FakeMatrix": "fakequant",
    "History": "history",
    "Reading": "material",
    "Settings": "settings",
    "Step": "history",
    "add_lora": "lora",
    "calibrate": "preparing",
    "convert": "converting",
    "distillation": "distilling",
    "finetune": "finetuning",
    "fit": "loop",
    "freeze_batch_norm": "freezing",
    "parameter_groups": "preparing",
    "prepare": "preparing",
    "qat": "teaching",
    "states_loss": "distilling",
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
