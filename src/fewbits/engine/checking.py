"""Every tensor that the facts of an architecture name is there, in the shape that the configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewbits.checkpoints.base import Reader
from fewbits.checkpoints.rope import FREQUENCIES, LONG, SHORT
from fewbits.errors import EngineError
from fewbits.models import Architecture, TensorFact, architectures
from fewbits.models.network import NetworkFact

OF_ROPE = frozenset({FREQUENCIES, LONG, SHORT})
"""Tensors that are no weights: what RoPE's frequencies are made of."""


def network_of(path: Path, architecture: Architecture) -> NetworkFact:
    """What is computed with an architecture's tensors; raises EngineError where the engine does not run it."""
    if architecture.engine is None:
        known = ", ".join(sorted(each.name for each in architectures() if each.engine))
        raise EngineError(f"{path}: the engine does not run the architecture {architecture.name}; it runs {known}.")
    return architecture.engine


def require_tensors(path: Path, reader: Reader, facts: Mapping[str, TensorFact], widths: Mapping[str, int]) -> None:
    """Raise EngineError where a tensor of `facts` (by name) is missing or of another shape, or one has no fact."""
    stored = set(reader.names()) - OF_ROPE
    if strange := sorted(stored - set(facts)):
        raise EngineError(f"{path}: the architecture has no place for tensor {strange[0]}; the file is of another one.")
    for name, fact in facts.items():
        if name not in stored:
            raise EngineError(f"{path}: tensor {name} is missing; the file is incomplete.")
        wanted, found = tuple(widths[width] for width in fact.shape), reader.read(name).shape
        if found != wanted:
            raise EngineError(f"{path}: tensor {name} has shape {found}, and the configuration asks for {wanted}.")
