"""The kinds of facts that the TOML file of an architecture states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fewbits.models.views import View

EXPERT = "{expert}"
"""Stands for an expert's number in a name."""

HEADS = ("cls.", "lm_head.")
"""How names begin of what stands on an encoder and is no part of it."""


_PARTS = re.compile(r"\[([^\]]+)\]")


def parts_of(parameter: str) -> tuple[str, ...]:
    """The parameters of transformers' network that `parameter` names: several where a checkpoint has one for all.

    Their rows follow one another there, as many of each.

    >>> parts_of("attn.[q|k].weight"), parts_of("mlp.up.weight")
    (('attn.q.weight', 'attn.k.weight'), ('mlp.up.weight',))
    """
    found = _PARTS.search(parameter)
    if not found:
        return (parameter,)
    return tuple(f"{parameter[: found.start()]}{part}{parameter[found.end() :]}" for part in found[1].split("|"))


@dataclass(frozen=True)
class TensorFact:
    """One tensor of an architecture: its name on both sides, with "{layer}" for the layer's number.

    `shape` names widths ("hidden", "query", ...) in numpy's order. `order` is "rope" where llama.cpp wants the rows of
    each head interleaved, and "qkv" where a checkpoint has query, key and value of each head together. `when` and
    `unless` name the configuration value that decides whether the tensor exists. With "{expert}" in its source, a
    checkpoint lists what a GGUF file stacks. `parameter` is the name in transformers' network, its stacks taken apart,
    where that is not `source`; "[a|b]" in it stands for several whose rows follow one another in `source`. `add` is
    what a GGUF file's numbers are more than the source's. A `transposed` matrix lies in the checkpoint, and in
    transformers' network, with its columns as rows; `shape` is the GGUF file's. A `flat` vector is a matrix of one row
    there. `aside` marks what a checkpoint of an encoder may hold beside it (a pooler, a
    head that guesses masked tokens): no GGUF file has it, and a directory keeps it as it is. `after` is the
    configuration's key of the last row that nothing looks up: a GGUF file begins behind it. `sources` says under which
    configuration value, where that is true, a checkpoint calls it otherwise than `source`. `view` names the sides by
    which `source` is seen as a stack, of which part `take` is the tensor, `transposed` or not; `merged` says that the
    first two sides are one in the checkpoint (see `views.py`). `only` is "dense" or "sparse" where one kind of layers
    has the tensor: those without experts, or with.
    """

    gguf: str
    source: str
    shape: tuple[str, ...]
    order: str = ""
    when: str = ""
    unless: str = ""
    parameter: str = ""
    add: float = 0.0
    transposed: bool = False
    flat: bool = False
    aside: bool = False
    after: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    view: tuple[str, ...] = ()
    take: int = 0
    merged: bool = False
    only: str = ""

    def seen(self, widths: Mapping[str, int]) -> View:
        """How `source` is seen where the facts say so, in a model of these widths."""
        return View.of(self.view, self.take, widths, turned=self.transposed, merged=self.merged)

    def named_in(self, config: Mapping[str, Any]) -> TensorFact:
        """The fact with the name that a model of `config` (defaults filled in) gives the tensor."""
        other = next((name for key, name in self.sources.items() if config.get(key)), None)
        return replace(self, source=other) if other else self

    @property
    def stacked(self) -> bool:
        """Whether there is one for every expert."""
        return EXPERT in self.source

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.gguf

    def in_checkpoint(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a checkpoint of what has `shape` in a GGUF file."""
        if self.flat:
            return 1, *shape
        return shape[::-1] if self.transposed else shape

    def under(self, prefix: str) -> TensorFact:
        """The same tensor in a checkpoint where names of the encoder begin with `prefix`; a head's are its own."""
        if self.aside and self.source.startswith(HEADS):
            return self
        return replace(self, source=prefix + self.source, parameter=self.parameter or self.source)

    def unread(self, config: Mapping[str, Any]) -> int:
        """How many rows from the first on a GGUF file leaves out, in a model of `config` (defaults filled in)."""
        return int(config[self.after]) + 1 if self.after else 0

    def exists(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of `config` (defaults filled in) has this tensor."""
        return (not self.when or bool(config.get(self.when))) and not (self.unless and config.get(self.unless))


@dataclass(frozen=True)
class MetadataFact:
    """One metadata value of a GGUF file: the configuration key that says it, and its GGUF type.

    An `optional` one is written where the configuration says something.
    """

    key: str
    type: str
    optional: bool = False


@dataclass(frozen=True)
class ImpliedFact:
    """A configuration value that llama.cpp takes from elsewhere: `key` has to be the width called `width`.

    `layers` are the numbers of layers for which that is so; empty: all that no other fact about `key` names.
    """

    key: str
    width: str
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class SettledFact:
    """What the configuration says by other values: `key` is `value` where each of `where` is as it is there."""

    key: str
    value: Any
    where: Mapping[str, Any]


@dataclass(frozen=True)
class NeededFact:
    """What llama.cpp takes from other values: `key` has to be `value` where each of `where` is so, else `otherwise`."""

    key: str
    value: Any
    where: Mapping[str, Any]
    otherwise: Any

    def value_for(self, values: Mapping[str, Any]) -> Any:
        """What `key` has to be in a model of `values` (defaults filled in)."""
        return self.value if all(values.get(key) == value for key, value in self.where.items()) else self.otherwise


@dataclass(frozen=True)
class LocalRope:
    """RoPE of its own for layers of one kind: their base is the configuration value `base`, and never stretched.

    `kind` and `others` are what the configuration calls those layers and all others.
    """

    kind: str
    others: str
    base: str


@dataclass(frozen=True)
class SparseFact:
    """Which layers have experts, by configuration values: those from number `first` on, every `step`-th of all layers.

    `listed` is the key that may list their numbers too, and has to list these.
    """

    first: str = ""
    step: str = ""
    listed: str = ""

    def holds(self, layer: int, config: Mapping[str, Any]) -> bool:
        """Whether layer number `layer` of a model of `config` (defaults filled in) has experts."""
        behind = layer >= int(config[self.first]) if self.first else True
        return behind and (not self.step or (layer + 1) % int(config[self.step]) == 0)


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
    """Who begins the residual stream and who writes into it by rows; behind norms, its readers are consumers.

    Without writers it is not known how the stream could be rotated.
    """

    embedding: str
    head: str
    writers: tuple[str, ...] = ()
