"""What is known about an architecture: the facts that its TOML file states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from fewbits.models.facts import (
    EXPERT,
    GroupFact,
    ImpliedFact,
    LocalRope,
    MetadataFact,
    NeededFact,
    SettledFact,
    SparseFact,
    StreamFact,
    TensorFact,
)
from fewbits.models.network import NetworkFact


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
    metadata: Mapping[str, MetadataFact]
    """GGUF key -> what it states."""
    tensors: tuple[TensorFact, ...]
    stream: StreamFact
    groups: tuple[GroupFact, ...] = ()
    equal: tuple[tuple[str, str], ...] = ()
    """Pairs of widths that must be equal."""
    widths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Width of fused tensors -> the widths that it is the sum of."""
    implied: tuple[ImpliedFact, ...] = ()
    stated: tuple[str, ...] = ()
    """Configuration keys where null says something that a GGUF file cannot state."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Configuration key by which a value goes here -> what this architecture's configurations call it."""
    multiples: Mapping[str, int] = field(default_factory=dict)
    """Configuration key -> how many times the hidden size it is, where the configuration is silent."""
    prefix: str = ""
    """How names of a checkpoint begin that may also lack it."""
    absent: tuple[str, ...] = ()
    """Configuration keys that have to say nothing."""
    layer_types: tuple[str, ...] = ()
    """Kinds of the first layers, repeated over all of them; empty where all are of one kind."""
    local_rope: LocalRope | None = None
    transformers: str = ""
    """The model type in transformers, where that is not `name`."""
    encoder: bool = False
    """Whether tokens see those behind them too: it answers with states and embeddings and continues no text."""
    settled: tuple[SettledFact, ...] = ()
    """What follows from other values, in this order, whatever the configuration says of it."""
    needed: tuple[NeededFact, ...] = ()
    """What other values ask for."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Class -> how names of the model's tensors begin in its checkpoints, where they do not begin as in the facts."""
    sparse: SparseFact | None = None
    """Which layers have experts, where not all of them do."""
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Configuration key by which a sum goes here -> the keys that it is the sum of."""
    repeats: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Configuration key -> what it has to list, where it says something: for the first layers, repeated over all."""
    silent_in: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Configuration key -> counts of layers: it has to be silent in models of these counts, and in no others."""
    told_by: Mapping[str, Any] = field(default_factory=dict)
    """GGUF key -> the value by which a file is of this architecture, where several of ours share its name in GGUF."""
    nested: Mapping[str, str] = field(default_factory=dict)
    """Class -> the key of its configuration under which that of the language model stands."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Pattern of names that are no part of the language model -> what they are; "{behind}": a layer after the last."""
    scores_yarn: bool = False
    """Whether YaRN's factor multiplies the scores of attention, by mscale_all_dim, instead of cosine and sine."""
    rounds_yarn: bool = False
    """Whether YaRN with truncate = false is converted: llama.cpp rounds the two bounds, and a note says so."""
    engine: NetworkFact | None = None
    """What the engine computes; None where it does not run the architecture."""

    def of_class(self, name: str) -> Architecture:
        """The same facts with the names that checkpoints of the class `name` use; parameters keep theirs."""
        prefix = self.prefixes.get(name, "")
        return replace(self, tensors=tuple(fact.under(prefix) for fact in self.tensors)) if prefix else self

    @property
    def rotates(self) -> bool:
        """Whether positions are told by rotating heads (RoPE)."""
        return bool(self.rope_types)

    def settle(self, values: dict[str, Any]) -> None:
        """Give `values` (defaults filled in) what follows from the others."""
        for fact in self.settled:
            if all(key in values and values[key] == value for key, value in fact.where.items()):
                values[fact.key] = fact.value

    def usable_positions(self, config: Mapping[str, Any]) -> int:
        """Most tokens that a model of `config` (defaults filled in) can read at once."""
        return int(config["max_position_embeddings"]) - max(fact.unread(config) for fact in self.tensors)

    def skips(self, name: str) -> bool:
        """Whether the source tensor `name` holds no weight and is left out."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    @property
    def experts(self) -> bool:
        """Whether its layers have experts."""
        return any(fact.stacked or EXPERT in fact.parameter for fact in self.tensors)

    @property
    def model_type(self) -> str:
        """What transformers calls it."""
        return self.transformers or self.name

    @property
    def epsilon(self) -> str:
        """The configuration key of what is added to a variance in its norms."""
        return next(fact.key for key, fact in self.metadata.items() if "layer_norm" in key)

    def kinds(self, layers: int) -> list[str]:
        """The kind of each of `layers` layers; empty where all are of one kind."""
        return [self.layer_types[n % len(self.layer_types)] for n in range(layers)] if self.layer_types else []

    def implications(self, layers: int) -> dict[str, str]:
        """Configuration key -> the width that it has to be in a model of `layers` layers."""
        general = {fact.key: fact.width for fact in self.implied if not fact.layers}
        return general | {fact.key: fact.width for fact in self.implied if layers in fact.layers}

    def facts(self, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, TensorFact]]:
        """GGUF name -> (source name, fact) for every tensor of a model of `config`, layer by layer.

        The number of an expert is left open.
        """
        return self._named(config, layers, lambda fact: fact.source)

    def stored(
        self, config: Mapping[str, Any], layers: int, present: Collection[str]
    ) -> dict[str, tuple[str, TensorFact]]:
        """The same for a checkpoint with the tensors `present`, whose names may lack the prefix."""
        facts = self.facts(config, layers)
        if not self.prefix or any(name.startswith(self.prefix) for name in present):
            return facts
        return {target: (source.removeprefix(self.prefix), fact) for target, (source, fact) in facts.items()}

    def parameters(self, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, TensorFact]]:
        """GGUF name -> (parameter of transformers' network, its stacks taken apart, fact), as `facts`."""
        return self._named(config, layers, lambda fact: fact.parameter or fact.source)

    def network(self, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, TensorFact]]:
        """The same, with the network's own stack where a fact sees a part of one."""
        return self._named(config, layers, lambda fact: fact.source if fact.view else fact.parameter or fact.source)

    def _named(
        self, config: Mapping[str, Any], layers: int, name: Callable[[TensorFact], str]
    ) -> dict[str, tuple[str, TensorFact]]:
        present = [fact.named_in(config) for fact in self.tensors if fact.exists(config)]
        layered = [fact for fact in present if fact.layered]
        result: dict[str, tuple[str, TensorFact]] = {}
        for fact in present:
            if not fact.layered:
                result[fact.gguf] = (name(fact), fact)
            elif fact is layered[0]:
                for layer in range(layers):
                    own = [f for f in layered if self.has_in(layer, f, config)]
                    result |= {f.gguf.format(layer=layer): (_in_layer(name(f), layer), f) for f in own}
        return result

    def has_in(self, layer: int, fact: TensorFact, config: Mapping[str, Any]) -> bool:
        """Whether layer number `layer` is of the kind that has the tensor of `fact`."""
        return self.sparse is None or not fact.only or self.sparse.holds(layer, config) == (fact.only == "sparse")

    def add_sums(self, values: dict[str, Any]) -> None:
        """Give `values` the sums of others, where all of them are numbers."""
        for key, parts in self.sums.items():
            if all(type(values.get(part)) is int for part in parts):
                values[key] = sum(values[part] for part in parts)

    def take_sums_apart(self, values: dict[str, Any]) -> None:
        """Give `values` the one part of each sum that they do not state."""
        for key, parts in self.sums.items():
            unknown = [part for part in parts if part not in values]
            if key in values and len(unknown) == 1:
                values[unknown[0]] = values[key] - sum(values[part] for part in parts if part in values)

    def stands_beside(self, name: str, layers: int) -> str | None:
        """What the source tensor `name` of a model of `layers` layers is, where it is no part of the language model."""
        for pattern, what in self.beside.items():
            before, _, after = pattern.partition("{behind}")
            number = name.removeprefix(before).partition(".")[0]
            wanted = f"{before}{number}{after}" if number.isdecimal() and int(number) >= layers else before
            if fnmatchcase(name, wanted if _ else pattern):
                return what
        return None


def _in_layer(name: str, layer: int) -> str:
    return name.replace("{layer}", str(layer))
