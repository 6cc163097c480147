"""Which tensors of a model are rewritten together: the facts of its architecture, for its own layers and widths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits.lazy import LazyModule
from fewbits.models import Architecture, GroupFact

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class Group:
    """Producers whose rows or gains can be divided by what the consumers' columns are multiplied with.

    Where `repeats` is not 1, heads of `head` rows of the producers each serve that many heads of the consumers' columns
    one after another. `untied` is what a consumer without numbers of its own takes them from, a tied head.
    """

    name: str
    kind: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    head: int = 1
    repeats: int = 1
    untied: Mapping[str, str] | None = None

    def shared(self, columns: torch.Tensor, *, largest: bool = False) -> torch.Tensor:
        """A number per consumers' column (cols,) as one per row of the producers: the mean, or the largest."""
        if self.repeats == 1:
            return columns
        heads = columns.reshape(-1, self.repeats, self.head)
        return (heads.amax(1) if largest else heads.mean(1)).flatten()

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """One number per row of the producers (rows,) as one per column of the consumers."""
        if self.repeats == 1:
            return rows
        return rows.reshape(-1, 1, self.head).expand(-1, self.repeats, -1).flatten()


@dataclass(frozen=True)
class Stream:
    """The residual stream: where it begins, who writes into it by rows, and who reads it behind which norm."""

    embedding: str
    writers: tuple[str, ...]
    readers: Mapping[str, tuple[str, ...]]
    """The gain of a norm -> the tensors whose columns read what it lets through."""
    values: tuple[Group, ...]
    """Groups of heads, each of which can be turned by itself."""
    width: int
    head: int
    untied: Mapping[str, str]


def groups_of(
    architecture: Architecture, config: Mapping[str, Any], names: Collection[str], layer: int | None
) -> list[Group]:
    """The groups of layer `layer`, or where it is None those outside of layers, of a model with the tensors `names`.

    `config` is the model's configuration; what it does not say is the architecture's default.
    """
    facts = [fact for fact in architecture.groups if fact.layered == (layer is not None)]
    groups = [_group(fact, architecture, config, names, layer) for fact in facts]
    # Architectures whose models have one norm or two state groups for both.
    return [group for group in groups if group.producers]


def _group(
    fact: GroupFact,
    architecture: Architecture,
    config: Mapping[str, Any],
    names: Collection[str],
    layer: int | None,
) -> Group:
    producers = [name.format(layer=layer) for name in fact.producers]
    consumers = [name.format(layer=layer) for name in fact.consumers]
    tied = _untied(architecture, names)
    return Group(
        fact.name,
        fact.kind,
        tuple(name for name in producers if name in names),
        tuple(name for name in consumers if name in names or name in tied),
        _head(architecture, config) if fact.kind == "heads" else 1,
        _repeats(architecture, config) if fact.kind == "heads" else 1,
        {name: source for name, source in tied.items() if name in consumers},
    )


def _untied(architecture: Architecture, names: Collection[str]) -> dict[str, str]:
    stream = architecture.stream
    return {} if stream.head in names else {stream.head: stream.embedding}


def stream_of(architecture: Architecture, config: Mapping[str, Any], names: Collection[str]) -> Stream:
    """The residual stream of a model with the tensors `names`, over all its layers."""
    layers = range(_value(architecture, config, "num_hidden_layers"))
    groups = [g for layer in [*layers, None] for g in groups_of(architecture, config, names, layer)]
    writers = [name.format(layer=layer) for layer in layers for name in architecture.stream.writers]
    return Stream(
        architecture.stream.embedding,
        tuple(name for name in writers if name in names),
        {group.producers[0]: group.consumers for group in groups if group.kind == "norm"},
        tuple(group for group in groups if group.kind == "heads"),
        _value(architecture, config, "hidden_size"),
        _head(architecture, config),
        _untied(architecture, names),
    )


def _value(architecture: Architecture, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return int(architecture.defaults[key] if value is None else value)


def _heads(architecture: Architecture, config: Mapping[str, Any]) -> int:
    return _value(architecture, config, "num_attention_heads")


def _head(architecture: Architecture, config: Mapping[str, Any]) -> int:
    if config.get("head_dim") is None and "head_dim" not in architecture.defaults:
        return _value(architecture, config, "hidden_size") // _heads(architecture, config)
    return _value(architecture, config, "head_dim")


def _repeats(architecture: Architecture, config: Mapping[str, Any]) -> int:
    groups = config.get("num_key_value_heads")
    groups = architecture.defaults.get("num_key_value_heads") if groups is None else groups
    heads = _heads(architecture, config)
    return heads // int(groups or heads)
