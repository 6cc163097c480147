"""Load architecture facts and find the architecture of a configuration or a GGUF file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from fewbits.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


EXPERT = "{expert}"
"""Stands for an expert's number in a name."""

HEADS = ("cls.", "lm_head.")
"""How names begin of what stands on an encoder and is no part of it."""


@dataclass(frozen=True)
class TensorFact:
    """One tensor of an architecture: its name on both sides, with "{layer}" for the layer's number.

    `shape` names widths ("hidden", "query", ...) in numpy's order. `order` is "rope" where llama.cpp wants the rows of
    each head interleaved. `when` and `unless` name the configuration value that decides whether the tensor exists.
    With "{expert}" in its source, a checkpoint lists what a GGUF file stacks. `parameter` is the name in transformers'
    network, its stacks taken apart, where that is not `source`. `aside` marks what a checkpoint of an encoder may hold
    beside it (a pooler, a head that guesses masked tokens): no GGUF file has it, and a directory keeps it as it is.
    `after` is the configuration's key of the last row that nothing looks up: a GGUF file begins behind it.
    """

    gguf: str
    source: str
    shape: tuple[str, ...]
    order: str = ""
    when: str = ""
    unless: str = ""
    parameter: str = ""
    aside: bool = False
    after: str = ""

    @property
    def stacked(self) -> bool:
        """Whether there is one for every expert."""
        return EXPERT in self.source

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.gguf

    def under(self, prefix: str) -> TensorFact:
        """The same tensor in a checkpoint where names of the encoder begin with `prefix`; a head's are its own."""
        if self.source.startswith(HEADS):
            return self
        return replace(self, source=prefix + self.source, parameter=self.parameter or self.source)

    def unread(self, config: Mapping[str, Any]) -> int:
        """How many rows from the first on a GGUF file leaves out, in a model of `config` (defaults filled in)."""
        return int(config[self.after]) + 1 if self.after else 0

    def exists(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of `config` (defaults filled in) has this tensor."""
        return (not self.when or bool(config.get(self.when))) and not (self.unless and config.get(self.unless))


@dataclass(frozen=True)
class GroupFact:
    """Tensors that may be rewritten together, exactly: what its producers give is read by its consumers alone.

    `kind` is "norm" where the producer is the gain of a norm, "rows" where its rows are meant, and "heads" where a head
    of its rows may serve several heads of the consumers' columns. Names hold "{layer}" where every layer has one.
    """

    name: str
    kind: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.producers[0]


@dataclass(frozen=True)
class StreamFact:
    """Who begins the residual stream and who writes into it by rows; behind norms, its readers are consumers."""

    embedding: str
    head: str
    writers: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """What has to be known about one architecture to convert it; all of it comes from its TOML file."""

    name: str
    gguf: str
    """The architecture's name in GGUF files, which several of ours can share."""
    classes: tuple[str, ...]
    """Class names in `architectures` of a configuration."""
    skip: tuple[str, ...]
    """Patterns of tensors that are left out on purpose."""
    rope_types: tuple[str, ...]
    """RoPE scalings that llama.cpp computes for this architecture."""
    defaults: Mapping[str, Any]
    require: Mapping[str, tuple[Any, ...]]
    """Configuration key -> the values that can be converted; a missing key is fine."""
    equal: tuple[tuple[str, str], ...]
    """Pairs of widths that must be equal."""
    metadata: Mapping[str, tuple[str, str]]
    """GGUF key -> (configuration key, GGUF type)."""
    tensors: tuple[TensorFact, ...]
    groups: tuple[GroupFact, ...]
    stream: StreamFact
    encoder: bool = False
    """Whether tokens see those behind them too: it answers with states and embeddings and continues no text."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Class -> how names of the encoder's tensors begin in its checkpoints, where they do not begin as in the facts."""

    def of_class(self, name: str) -> Architecture:
        """The same facts with the names that checkpoints of the class `name` use; parameters keep theirs."""
        prefix = self.prefixes.get(name, "")
        return replace(self, tensors=tuple(fact.under(prefix) for fact in self.tensors)) if prefix else self

    @property
    def rotates(self) -> bool:
        """Whether positions are told by rotating heads (RoPE)."""
        return bool(self.rope_types)

    @property
    def epsilon(self) -> str:
        """The configuration key of what its norms add to a variance."""
        return next(source for key, (source, _) in self.metadata.items() if key.endswith("_epsilon"))

    def usable_positions(self, config: Mapping[str, Any]) -> int:
        """Most tokens that a model of `config` (defaults filled in) can read at once."""
        return int(config["max_position_embeddings"]) - max(fact.unread(config) for fact in self.tensors)

    def skips(self, name: str) -> bool:
        """Whether the source tensor `name` holds no weight and is left out."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    @property
    def experts(self) -> bool:
        """Whether its layers have experts."""
        return any(fact.stacked for fact in self.tensors)

    def facts(self, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, TensorFact]]:
        """GGUF name -> (source name, fact) for every tensor of a model of `config`, layer by layer.

        The number of an expert is left open.
        """
        return self._named(config, layers, lambda fact: fact.source)

    def parameters(self, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, TensorFact]]:
        """GGUF name -> (parameter of transformers' network, its stacks taken apart, fact), as `facts`."""
        return self._named(config, layers, lambda fact: fact.parameter or fact.source)

    def _named(
        self, config: Mapping[str, Any], layers: int, name: Callable[[TensorFact], str]
    ) -> dict[str, tuple[str, TensorFact]]:
        present = [fact for fact in self.tensors if fact.exists(config)]
        layered = [fact for fact in present if fact.layered]
        result: dict[str, tuple[str, TensorFact]] = {}
        for fact in present:
            if not fact.layered:
                result[fact.gguf] = (name(fact), fact)
            elif fact is layered[0]:
                for layer in range(layers):
                    result |= {f.gguf.format(layer=layer): (_in_layer(name(f), layer), f) for f in layered}
        return result


def _in_layer(name: str, layer: int) -> str:
    return name.replace("{layer}", str(layer))


def _parse(text: str) -> Architecture:
    raw = tomllib.loads(text)
    return Architecture(
        name=raw["name"],
        gguf=raw["gguf"],
        classes=tuple(raw["classes"]),
        skip=tuple(raw["skip"]),
        rope_types=tuple(raw["rope_types"]),
        defaults=MappingProxyType(raw["defaults"]),
        require=MappingProxyType({key: tuple(values) for key, values in raw["require"].items()}),
        equal=tuple((a, b) for a, b in raw.get("equal", ())),
        metadata=MappingProxyType({key: (source, kind) for key, (source, kind) in raw["metadata"].items()}),
        tensors=tuple(
            TensorFact(gguf=name, **{**fields, "shape": tuple(fields["shape"])})
            for name, fields in raw["tensors"].items()
        ),
        groups=tuple(
            GroupFact(g["name"], g["kind"], tuple(g["producers"]), tuple(g["consumers"])) for g in raw["groups"]
        ),
        stream=StreamFact(raw["stream"]["embedding"], raw["stream"]["head"], tuple(raw["stream"]["writers"])),
        encoder=raw.get("encoder", False),
        prefixes=MappingProxyType(raw.get("prefixes", {})),
    )


@cache
def architectures() -> tuple[Architecture, ...]:
    """Every supported architecture, ordered by name."""
    files = resources.files("fewbits.models").iterdir()
    texts = {f.name: f.read_text(encoding="utf-8") for f in files if f.name.endswith(".toml")}
    return tuple(_parse(texts[name]) for name in sorted(texts))


def for_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face configuration names; raises CheckpointError, listing the supported ones."""
    stated = config.get("architectures")
    names = stated if isinstance(stated, list) else [stated]
    for architecture in architectures():
        if names and names[0] in architecture.classes:
            return architecture.of_class(names[0])
    known = ", ".join(sorted(c for a in architectures() for c in a.classes))
    if not names or not isinstance(names[0], str):
        raise CheckpointError(f"the configuration names no architecture ('architectures'). Supported: {known}.")
    raise CheckpointError(f"the architecture {names[0]} is not supported. Supported: {known}.")


def is_encoder(classes: Sequence[str] | None) -> bool:
    """Whether the first of the `classes` that a configuration names is one of an encoder that is known here.

    >>> is_encoder(["BertModel"]), is_encoder(["LlamaForCausalLM"]), is_encoder(None)
    (True, False, False)
    """
    first = classes[0] if classes else None
    return any(a.encoder and first in a.classes for a in architectures())


def for_gguf(name: str, *, experts: bool = False) -> Architecture:
    """The first architecture, with or without experts, that GGUF files call `name`.

    Raises CheckpointError, listing the supported ones.
    """
    for architecture in architectures():
        if architecture.gguf == name and architecture.experts == experts:
            return architecture
    known = ", ".join(sorted({a.gguf for a in architectures()}))
    having = " with experts" if experts else ""
    raise CheckpointError(f"the GGUF architecture {name!r}{having} is not supported. Supported: {known}.")
