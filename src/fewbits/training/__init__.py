"""Training with quantization: networks that learn in the numbers they are stored as, adapters on packed bases, a loop.

Everything is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.beginning import begin_at
    from fewbits.training.converting import convert
    from fewbits.training.distilling import distillation, states_loss, with_labels
    from fewbits.training.fake.batch_norm import freeze_batch_norm
    from fewbits.training.fake.matrix import FakeMatrix
    from fewbits.training.finetuning import finetune
    from fewbits.training.fitting.history import History, Step
    from fewbits.training.fitting.loop import fit
    from fewbits.training.fitting.settings import Settings
    from fewbits.training.llm import Schedule, distil, teach_layers
    from fewbits.training.lora.adding import add_lora
    from fewbits.training.lora.gguf import adapter_to_gguf
    from fewbits.training.lora.merging import merge_adapter
    from fewbits.training.lora.saving import load_adapter, save_adapter
    from fewbits.training.material.reading import Reading
    from fewbits.training.preparing import calibrate, parameter_groups, prepare
    from fewbits.training.teaching import qat

__all__ = [
    "FakeMatrix",
    "History",
    "Reading",
    "Schedule",
    "Settings",
    "Step",
    "adapter_to_gguf",
    "add_lora",
    "begin_at",
    "calibrate",
    "convert",
    "distil",
    "distillation",
    "finetune",
    "fit",
    "freeze_batch_norm",
    "load_adapter",
    "merge_adapter",
    "parameter_groups",
    "prepare",
    "qat",
    "save_adapter",
    "states_loss",
    "teach_layers",
    "with_labels",
]

_WHERE = {
    "FakeMatrix": "fake.matrix",
    "History": "fitting.history",
    "Reading": "material.reading",
    "Schedule": "llm",
    "Settings": "fitting.settings",
    "Step": "fitting.history",
    "adapter_to_gguf": "lora.gguf",
    "add_lora": "lora.adding",
    "begin_at": "beginning",
    "calibrate": "preparing",
    "convert": "converting",
    "distil": "llm",
    "distillation": "distilling",
    "finetune": "finetuning",
    "fit": "fitting.loop",
    "freeze_batch_norm": "fake.batch_norm",
    "load_adapter": "lora.saving",
    "merge_adapter": "lora.merging",
    "parameter_groups": "preparing",
    "prepare": "preparing",
    "qat": "teaching",
    "save_adapter": "lora.saving",
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
