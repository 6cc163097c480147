"""What the parts of a network share while its program is written: facts, sizes, buffers, tables of RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.engine.building import SLOTS, Builder, Place
from fewbits.engine.rope import table_of
from fewbits.engine.sizes import Sizes, sizes_of
from fewbits.models.network import NetworkFact

_SLIDING = "sliding_attention"
"""What configurations call layers whose tokens see a window of keys."""


@dataclass(frozen=True)
class ExpertBuffers:
    """Rows of numbers of experts, one for each expert that a token goes to; `scores` and `weight` are of tokens."""

    scores: Place
    weight: Place
    source: Place
    inner: Place
    out: Place
    shared: Place


@dataclass(frozen=True)
class Buffers:
    """Rows of numbers that layers pass on: `stream` is the residual stream, `normal` what comes out of a norm."""

    stream: Place
    normal: Place
    branch: Place
    """What a part makes of the stream, where that is not added at once."""
    query: Place
    """Queries, then keys, then values."""
    heads: Place
    inner: Place
    """The middle of the feed-forward: the gate, then what it multiplies."""
    experts: ExpertBuffers | None


@dataclass(frozen=True)
class Frame:
    """A program that is being written."""

    build: Builder
    fact: NetworkFact
    sizes: Sizes
    at: Buffers
    tables: Mapping[str, int]
    """Kind of layers -> its table of RoPE; "" where all have one, and none where nothing turns."""

    def name(self, layer: int, name: str) -> str:
        """The full name of what belongs to a layer."""
        return f"blk.{layer}.{name}"

    def has(self, layer: int, name: str) -> bool:
        """Whether a layer has the tensor `name`."""
        return self.build.has(self.name(layer, name))

    def norm(self, out: Place, source: Place, name: str, *, width: int = 0, heads: int = 1) -> None:
        """The norm `name` of `heads` stretches of `width` numbers; where nothing else is said of the hidden state."""
        columns = width or self.sizes.hidden
        if self.fact.norm == "rms":
            self.build.rms_norm(out, source, f"{name}.weight", columns, self.sizes.epsilon, heads=heads)
        else:
            self.build.layer_norm(out, source, name, columns, self.sizes.epsilon)

    def _kind(self, layer: int) -> str:
        kinds = self.build.source.values.get("layer_types")
        return str(kinds[layer]) if kinds else ""

    def table(self, layer: int) -> int | None:
        """The table by which queries and keys of a layer turn; None where positions are learned."""
        return self.tables.get(self._kind(layer), self.tables.get(""))

    def window(self, layer: int) -> int:
        """How many keys a token of a layer sees; 0 where all."""
        values = self.build.source.values
        width = values.get(self.fact.window) if values.get("use_sliding_window", True) else None
        return int(width) if width and self._kind(layer) in ("", _SLIDING) else 0


def frame_of(build: Builder) -> Frame:
    """The frame of the model's program, with its buffers and tables."""
    source, sizes = build.source, sizes_of(build.source)
    return Frame(build, source.network, sizes, _buffers(build, source.network, sizes), _tables(build, sizes))


def _tables(build: Builder, sizes: Sizes) -> dict[str, int]:
    if not build.source.architecture.rotates:
        return {}
    stated: Mapping[str, Any] = build.source.values["rope_parameters"]
    kinds = {"": stated} if "rope_theta" in stated else stated
    return {kind: build.rope_table(table_of(build.source, own, sizes.head)) for kind, own in kinds.items()}


def _buffers(build: Builder, fact: NetworkFact, sizes: Sizes) -> Buffers:
    parts = 1 if fact.gate == "none" else 2
    return Buffers(
        stream=build.buffer(sizes.hidden),
        normal=build.buffer(sizes.hidden),
        branch=build.buffer(sizes.hidden),
        query=build.buffer(sizes.query + 2 * sizes.key),
        heads=build.buffer(sizes.query),
        inner=build.buffer(parts * max(sizes.ffn, sizes.shared)),
        experts=_expert_buffers(build, sizes) if sizes.experts else None,
    )


def _expert_buffers(build: Builder, sizes: Sizes) -> ExpertBuffers:
    build.experts(sizes.experts, sizes.chosen)
    return ExpertBuffers(
        scores=build.buffer(sizes.experts),
        weight=build.buffer(1),
        source=build.buffer(sizes.hidden, per=SLOTS),
        inner=build.buffer(2 * sizes.expert, per=SLOTS),
        out=build.buffer(sizes.hidden, per=SLOTS),
        shared=build.buffer(sizes.hidden),
    )
