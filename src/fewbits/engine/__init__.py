"""Models that run here, natively, on the CPU: a program per architecture, and sessions that go through it.

Nothing here needs torch. `load` reads a model's header and builds its program; weights are repacked for this processor
when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.engine.model import Model, load
    from fewbits.engine.session import Session

__all__ = ["Model", "Session", "load"]

_ROOMS = {"Model": "fewbits.engine.model", "Session": "fewbits.engine.session", "load": "fewbits.engine.model"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fewbits.engine' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)
