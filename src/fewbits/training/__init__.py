"""Training with quantization; everything is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.lora import add_lora
    from fewbits.training.lora_gguf import adapter_to_gguf
    from fewbits.training.lora_merging import merge_adapter
    from fewbits.training.lora_saving import load_adapter, save_adapter

__all__ = ["adapter_to_gguf", "add_lora", "load_adapter", "merge_adapter", "save_adapter"]

_WHERE = {
    "adapter_to_gguf": "lora_gguf",
    "add_lora": "lora",
    "load_adapter": "lora_saving",
    "merge_adapter": "lora_merging",
    "save_adapter": "lora_saving",
}
"""Name -> the file that has it, loaded when it is asked for: peft and others are not everybody's."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fewbits.training' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"fewbits.training.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
