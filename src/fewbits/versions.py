"""Versions of what took part, for the record."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PARTS = ("fewbits", "gguf", "numpy")


def versions() -> dict[str, str]:
    """Package name -> version, and Python's."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PARTS}}


def versions_of(*names: str) -> dict[str, str]:
    """`versions`, and those of other packages that took part."""
    return versions() | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
