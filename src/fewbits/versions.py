"""Versions of what took part, for the record."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PARTS = ("fewbits", "gguf", "numpy")


def versions() -> dict[str, str]:
    """Package name -> version, and Python's."""
    found = {"python": platform.python_version()}
    for name in _PARTS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
