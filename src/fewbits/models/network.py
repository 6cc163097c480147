"""What is computed with an architecture's tensors, where the engine runs it: the facts of `[engine]` in its TOML file.

Which tensors a model has is said by `[tensors]`; what is said here is what names and shapes leave open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NORMS = ("rms", "layer")
GATES = ("own", "fused", "limited", "none")
QUERY_NORMS = ("", "each head", "all heads")
SCORES = ("softmax", "softmax of chosen")


@dataclass(frozen=True)
class PowerFact:
    """A configuration value to some power, by which numbers are multiplied.

    >>> PowerFact("query_pre_attn_scalar", -0.5).of({"query_pre_attn_scalar": 64})
    0.125
    """

    key: str
    power: float = 1.0

    def of(self, values: Mapping[str, Any]) -> float:
        """The number in a model of configuration `values`."""
        return float(float(values[self.key]) ** self.power)


@dataclass(frozen=True)
class NetworkFact:
    """How the tensors of an architecture are put together; names of norms are those in GGUF, without the layer.

    `norm` is "rms" or "layer", `activation` the configuration key that names it, `gate` says where the feed-forward's
    gate is: a matrix of its "own", "fused" above the rows of ffn_up, "limited" (its own, and its product is limited as
    in gpt-oss), or "none". Norms before attention and feed-forward (for attention the first of those that the model
    has) read the stream; those after them norm what is added to it; those behind norm the sum itself. `parallel` is
    the configuration key, or true, by which attention and feed-forward
    read the same stream side by side. `query_norms` says whether queries and keys are normed by each head or all heads
    together. `embedding`, `scores`, `added` and `logits` are factors of the embedding, of scores of attention (where it
    is silent: the inverse root of a head's width), of what is added to the stream, of the logits. `score_cap` and
    `logit_cap` are the configuration keys of soft caps, `window` that of how many keys a token sees. `expert_scores` is
    how scores of experts become weights: by a softmax over all experts, or over those that are chosen.
    """

    norm: str
    activation: str
    gate: str
    before_attention: tuple[str, ...] = ()
    after_attention: str = ""
    behind_attention: str = ""
    before_network: str = ""
    after_network: str = ""
    behind_network: str = ""
    parallel: str | bool = False
    query_norms: str = ""
    embedding: PowerFact | None = None
    scores: PowerFact = PowerFact("head_dim", -0.5)
    added: PowerFact | None = None
    logits: PowerFact | None = None
    score_cap: str = ""
    logit_cap: str = ""
    window: str = ""
    expert_scores: str = "softmax"

    def side_by_side(self, values: Mapping[str, Any]) -> bool:
        """Whether attention and feed-forward read the same stream in a model of configuration `values`."""
        return self.parallel if isinstance(self.parallel, bool) else bool(values[self.parallel])
