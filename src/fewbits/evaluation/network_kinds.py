"""Which network transformers makes of a configuration: one that continues text, or an encoder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fewbits.models import for_config, is_encoder


@dataclass(frozen=True)
class NetworkKind:
    """The name of transformers' class that chooses the network, and what it is made with."""

    auto: str
    options: Mapping[str, Any]

    def of(self, transformers: Any) -> Any:
        """The class itself."""
        return getattr(transformers, self.auto)


CAUSAL = NetworkKind("AutoModelForCausalLM", MappingProxyType({}))
ENCODER = NetworkKind("AutoModel", MappingProxyType({"add_pooling_layer": False}))
"""Sentence encoders pool states by a mean or take the first: BERT's own pooler, one more layer, is no part of that."""


def kind_for(config: Any) -> NetworkKind:
    """The kind of network of a transformers configuration, by the class that it names."""
    return ENCODER if is_encoder(config.architectures) else CAUSAL


def positions_of(config: Any) -> int | None:
    """Most tokens that a model of a transformers configuration can read at once; None where it does not say."""
    stated = getattr(config, "max_position_embeddings", None)
    if not isinstance(stated, int) or not is_encoder(config.architectures):
        return stated if isinstance(stated, int) else None
    architecture = for_config({"architectures": list(config.architectures)})
    return architecture.usable_positions({**architecture.defaults, **config.to_dict()})


def stands_beside(config: Any) -> Callable[[str], bool]:
    """Whether a name in a checkpoint of an encoder belongs to what stands beside it: a pooler, a head; never else."""
    if not is_encoder(config.architectures):
        return lambda name: False
    architecture = for_config({"architectures": list(config.architectures)})
    aside = {name for fact in architecture.tensors if fact.aside for name in (fact.source, fact.parameter)}
    return lambda name: name in aside or architecture.skips(name)
