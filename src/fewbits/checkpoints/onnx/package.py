"""The package `onnx`, which knows ONNX's protobuf messages and operators; asked for when a graph is opened."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fewbits.errors import CheckpointError


def onnx_package() -> Any:
    """The module `onnx`; raises CheckpointError, saying what to install, where there is none."""
    try:
        return import_module("onnx")
    except ImportError as error:
        raise CheckpointError(
            f"ONNX files need the package onnx, which cannot be imported ({error}); install it: "
            "pip install 'fewbits[onnx]'."
        ) from None
