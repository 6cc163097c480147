"""The native module, loaded when it is first needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from fewbits.errors import KernelError

INTERFACE = 12
"""What the module calls the functions that it has; a module from before they were there is older than this source."""


@cache
def native_module() -> ModuleType:
    """The module; raises KernelError where it cannot be loaded or cannot run what `FEWBITS_ISA` asks for."""
    try:
        native = import_module("fewbits.kernels._native")
    except ImportError as e:
        raise KernelError(
            f"the native module of fewbits cannot be loaded ({e}); "
            "install the package again with a C++17 compiler at hand"
        ) from e
    if getattr(native, "interface", 1) != INTERFACE:
        raise KernelError(
            "the native module of fewbits was built from another version of its source; "
            "build it again, or install the package again"
        )
    try:
        native.isa()
    except RuntimeError as e:
        raise KernelError(str(e)) from e
    return native
