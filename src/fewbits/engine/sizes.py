"""The sizes of a network, from its configuration, and checks that they fit together before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.engine.source import Source
from fewbits.errors import EngineError


@dataclass(frozen=True)
class Sizes:
    """What the configuration says of a network's sizes."""

    hidden: int
    ffn: int
    heads: int
    key_heads: int
    head: int
    layers: int
    vocabulary: int
    epsilon: float
    experts: int
    chosen: int
    """Experts that a token goes to."""
    expert: int
    """Columns inside of an expert."""
    shared: int
    """Columns inside of the expert that all tokens share; 0 where there is none."""

    @property
    def query(self) -> int:
        """Columns of all queries of a token."""
        return self.heads * self.head

    @property
    def key(self) -> int:
        """Columns of all keys of a token."""
        return self.key_heads * self.head


def sizes_of(source: Source) -> Sizes:
    """The sizes of the model in `source`; raises EngineError where they contradict one another."""
    values = source.values
    sizes = Sizes(
        hidden=values["hidden_size"],
        ffn=values["intermediate_size"],
        heads=values["num_attention_heads"],
        key_heads=values["num_key_value_heads"],
        head=values["head_dim"],
        layers=values["num_hidden_layers"],
        vocabulary=values["vocab_size"],
        epsilon=values[source.architecture.epsilon],
        experts=values.get("num_local_experts") or 0,
        chosen=values.get("num_experts_per_tok") or 0,
        expert=values.get("moe_intermediate_size") or values["intermediate_size"],
        shared=values.get("shared_expert_intermediate_size") or 0,
    )
    least = min(sizes.hidden, sizes.ffn, sizes.heads, sizes.key_heads, sizes.head, sizes.layers, sizes.vocabulary)
    for wrong, what in (
        (least < 1, f"one of them is {least}"),
        (
            sizes.heads % max(sizes.key_heads, 1),
            f"{sizes.heads} heads do not share {sizes.key_heads} heads of keys evenly",
        ),
        (sizes.experts and not 0 < sizes.chosen <= sizes.experts, f"{sizes.chosen} of {sizes.experts} experts"),
    ):
        if wrong:
            raise EngineError(f"{source.path}: the model's sizes do not fit together ({what}); the file is damaged.")
    return sizes
