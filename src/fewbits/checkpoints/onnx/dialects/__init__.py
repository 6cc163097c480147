"""How a quantized matrix lies in an ONNX graph; adding a way is a file and a line here."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from fewbits.checkpoints.onnx.dialects.base import GraphDialect, GraphMatrix, Held
from fewbits.errors import CheckpointError
from fewbits.registry import Registry

__all__ = ["GRAPH_DIALECTS", "USUAL", "GraphDialect", "GraphMatrix", "Held", "get"]

USUAL = "matmulnbits"
"""The one that is written where nobody asks for another."""

_DIALECTS = {"matmulnbits": ("matmulnbits", "MatMulNBits"), "qdq": ("qdq", "QDQ")}

GRAPH_DIALECTS: Registry[GraphDialect] = Registry("ONNX dialect", CheckpointError)


def _load(module: str, kind: str) -> GraphDialect:
    dialect: GraphDialect = getattr(import_module(f"fewbits.checkpoints.onnx.dialects.{module}"), kind)()
    return dialect


for _name, _where in _DIALECTS.items():
    GRAPH_DIALECTS.add_later(_name, partial(_load, *_where))


def get(name: str) -> GraphDialect:
    """The dialect called `name`; raises CheckpointError, naming the nearest known names."""
    return GRAPH_DIALECTS.get(name)
