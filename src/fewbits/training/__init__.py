"""Training with quantization; everything is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.training.lora import add_lora

__all__ = ["add_lora"]

_WHERE = {"add_lora": "lora"}
"""Name -> the file that has it, loaded when it is asked for: peft and others are not everybody's."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fewbits.training' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"fewbits.training.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
