"""Which modules of a network can be quantized where they stand, and under which names recipes know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value
from fewbits.errors import CheckpointError
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.places import as_matrix, weights_of
from fewbits.models import Architecture, for_config

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
COUNTS = {
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "expert_count": "num_local_experts",
}
"""What rules ask about a model -> what configurations call it."""


@dataclass(frozen=True)
class Found:
    """One weight, and every module that uses it: those after the first are tied to it."""

    name: str
    """As recipes know it: GGUF's, where the architecture is known."""
    own: str
    """The parameter's name in the network."""
    users: tuple[str, ...]
    """The names of the modules."""
    modules: tuple[torch.nn.Module, ...]
    numbers: str
    parameter: str = "weight"
    """What the modules call it."""

    def source(self) -> StoredTensor:
        """The weight as a matrix of bytes, on the CPU; a view where it lies there row by row."""
        matrix = as_matrix(self.modules[0], self.parameter).cpu().contiguous()
        raw = matrix.view(torch.uint8).numpy().reshape(-1)
        return StoredTensor(self.own, self.numbers, (int(matrix.shape[0]), int(matrix.shape[1])), raw)


@dataclass(frozen=True)
class Network:
    """What was found in a module: its weights, what recipes ask, and what stays as it is."""

    architecture: str
    counts: Mapping[str, Value]
    found: tuple[Found, ...]
    left: tuple[str, ...]
    """Names of parameters with two dimensions or more that lie in no module that can be quantized."""

    def conversion(self) -> Conversion:
        """The network as recipes see a model; no number is read for it."""
        placements = tuple(Placement(each.name, _unread(each)) for each in self.found)
        metadata = {f"{self.architecture}.{key}": value for key, value in self.counts.items()}
        return Conversion(self.architecture, metadata, placements, ())

    def patterns(self, tensors: Mapping[str, str]) -> dict[str, str]:
        """Patterns of parameters' or modules' names as names that recipes know; others as they are.

        >>> layer = torch.nn.Sequential(torch.nn.Linear(32, 8))
        >>> find(layer).patterns({"0": "Q8_0", "blk.*": "Q6_K"})
        {'0.weight': 'Q8_0', 'blk.*': 'Q6_K'}
        """
        result: dict[str, str] = {}
        for pattern, format_name in tensors.items():
            hits = [e.name for e in self.found if any(_matches(each, e.parameter, pattern) for each in e.users)]
            result |= dict.fromkeys(hits or [pattern], format_name)
        return result


def _matches(module: str, parameter: str, pattern: str) -> bool:
    return fnmatchcase(module, pattern) or fnmatchcase(_dotted(module, parameter), pattern)


def _dotted(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _unread(found: Found) -> StoredTensor:
    """Shape and bytes of a weight without its numbers."""
    shape = as_matrix(found.modules[0], found.parameter).shape
    size = found.modules[0].get_parameter(found.parameter).element_size()
    nothing = np.broadcast_to(np.uint8(0), int(shape[0]) * int(shape[1]) * size)
    return StoredTensor(found.own, found.numbers, (int(shape[0]), int(shape[1])), nothing)


def find(network: torch.nn.Module) -> Network:
    """What of `network` can be quantized; raises CheckpointError where that is nothing."""
    names, architecture = _known_names(network)
    uses: dict[int, list[_Use]] = {}
    for module_name, module in network.named_modules():
        for parameter in weights_of(module):
            if _is_plain(module, parameter):
                weight = module.get_parameter(parameter)
                uses.setdefault(id(weight), []).append(_Use(module_name, module, parameter))
    found = [_found(tied, names) for tied in uses.values()]
    if not found:
        packed = any(isinstance(m, PackedMatrix) for m in network.modules())
        raise CheckpointError(
            f"{type(network).__name__} is quantized already; quantize the network that it was made from."
            if packed
            else f"{type(network).__name__} has no Linear, Conv1d, Conv2d, Embedding, LSTM, GRU or Conv1D of float32, "
            "float16 or bfloat16 that could be quantized."
        )
    known = {id(each.modules[0].get_parameter(each.parameter)) for each in found}
    left = tuple(n for n, p in network.named_parameters() if p.dim() > 1 and id(p) not in known)
    if not architecture:
        return Network("", {}, tuple(found), left)
    return Network(architecture.gguf, _counts(_config(network)), tuple(found), left)


@dataclass(frozen=True)
class _Use:
    """A module, its name, and what it calls a weight."""

    name: str
    module: torch.nn.Module
    parameter: str


def _found(tied: list[_Use], names: Mapping[str, str]) -> Found:
    """One weight, from all who use it."""
    first = tied[0]
    own = _dotted(first.name, first.parameter)
    numbers = DTYPES[first.module.get_parameter(first.parameter).dtype]
    known = names.get(own, own if first.parameter == "weight" else f"{own}.weight")  # as names of matrices end
    users, modules = tuple(use.name for use in tied), tuple(use.module for use in tied)
    return Found(known, own, users, modules, numbers, first.parameter)


def _is_plain(module: torch.nn.Module, parameter: str) -> bool:
    """Whether the weight is an ordinary parameter with numbers: none that a parametrization makes, none on meta."""
    weight = module._parameters.get(parameter)
    return weight is not None and weight.dtype in DTYPES and not weight.is_meta and weight.numel() > 0


def _config(network: torch.nn.Module) -> dict[str, Any]:
    config: Any = getattr(network, "config", None)
    stated = config.to_dict() if hasattr(config, "to_dict") else {}
    return {**stated, "architectures": [type(network).__name__]}


def _counts(config: Mapping[str, Any]) -> dict[str, Value]:
    return {key: Value(config[own], "uint32") for key, own in COUNTS.items() if type(config.get(own)) is int}


def _known_names(network: torch.nn.Module) -> tuple[dict[str, str], Architecture | None]:
    """The network's name of a parameter -> GGUF's, where the architecture is known."""
    config = _config(network)
    try:
        architecture = for_config(config)
    except CheckpointError:
        return {}, None
    values = {**architecture.defaults, **{key: value for key, value in config.items() if value is not None}}
    facts = architecture.parameters(values, int(values["num_hidden_layers"]))
    return {own: target for target, (own, _) in facts.items()}, architecture
