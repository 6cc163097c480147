"""Modules that load on first use, so that reading a header or quantizing natively never waits for torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for the module `name` and imports it when the first attribute is asked for.

    >>> LazyModule("math").sqrt(9)
    3.0
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
