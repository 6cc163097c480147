"""The experts of a layer, each with linear modules of its own, in the place of transformers' stacks of matrices.

What chooses experts, and how their answers are put together, stays transformers' own; a stack cannot be watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PLACE = ".experts."
"""Part of the names of modules that belong to one expert."""

Gate = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""What an expert makes of its gate and up, (tokens, width) each, for its down projection."""


@dataclass(frozen=True)
class Stacks:
    """How transformers' module of one kind of experts keeps and uses its matrices.

    `gate` gives the module's own function of gate and up. Experts that are `given` tokens get those of each, already
    weighed, and answer for all; others get all tokens, the experts chosen for each, and their weights.
    """

    gate: Callable[[Any], Gate]
    turned: bool = False
    """Whether columns lie as rows."""
    biased: bool = False
    given: bool = False


def _behind(stacks: Any) -> Gate:
    return lambda gate, up: stacks._apply_gate(torch.cat([gate, up], -1))


def _alternating(stacks: Any) -> Gate:
    return lambda gate, up: stacks._apply_gate(torch.stack([gate, up], -1).flatten(-2))


def _activated(stacks: Any) -> Gate:
    return lambda gate, up: up * stacks.act_fn(gate)


_USUAL = Stacks(_behind)
_OTHERS: Mapping[str, Stacks] = MappingProxyType(
    {
        "GptOssExperts": Stacks(_alternating, turned=True, biased=True),
        "Llama4TextExperts": Stacks(_activated, turned=True, given=True),
    }
)
"""Name of the class in transformers -> what is otherwise there."""


def list_experts(network: Any) -> None:
    """Put modules that list their experts in the places of those that stack them; parameters stay on their device.

    Raises CalibrationError, naming the module, for stacks of another kind.
    """
    for name, module in list(network.named_modules()):
        if isinstance(getattr(module, "gate_up_proj", None), torch.nn.Parameter) and module.gate_up_proj.dim() > 2:
            kind = _OTHERS.get(type(module).__name__, _USUAL)
            turned, biased = (getattr(module, each, False) for each in ("is_transposed", "has_bias"))
            if kind is _USUAL and (turned or biased or not hasattr(module, "_apply_gate")):
                raise CalibrationError(
                    f"the experts of {name} ({type(module).__name__}) lie in a way that cannot be followed; take "
                    "--method nearest."
                )
            network.set_submodule(name, _listed_class()(module, kind))


@cache
def _expert_class() -> Any:
    """Made when it is first needed: a class that derives from torch's would load torch with this module."""

    class Expert(torch.nn.Module):
        """One expert's three matrices."""

        def __init__(self, hidden: int, width: int, like: torch.Tensor, gated: Gate, *, biased: bool) -> None:
            super().__init__()
            place: dict[str, Any] = {"bias": biased, "device": like.device, "dtype": like.dtype}
            self.gate_proj = torch.nn.Linear(hidden, width, **place)
            self.up_proj = torch.nn.Linear(hidden, width, **place)
            self.down_proj = torch.nn.Linear(width, hidden, **place)
            self._gated = gated

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.down_proj(self._gated(self.gate_proj(x), self.up_proj(x)))
            return answer

    return Expert


@cache
def _listed_class() -> Any:
    """Made when it is first needed, as the class of one expert."""

    class ListedExperts(torch.nn.ModuleList):
        """What transformers' module of the same place answers, expert by expert."""

        def __init__(self, stacks: Any, kind: Stacks) -> None:
            count, width, hidden = stacks.down_proj.shape if kind.turned else stacks.down_proj.mT.shape
            like, gated = stacks.gate_up_proj, kind.gate(stacks)
            super().__init__(_expert_class()(hidden, width, like, gated, biased=kind.biased) for _ in range(count))
            self._given = kind.given

        def forward(self, hidden_states: torch.Tensor, *chosen: torch.Tensor) -> torch.Tensor:
            return _answer_to_given(self, hidden_states) if self._given else _answer(self, hidden_states, *chosen)

    return ListedExperts


def _answer(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The weighed sum over the experts chosen for each token."""
    answer = torch.zeros_like(hidden_states)
    for number, expert in enumerate(experts):
        tokens, place = torch.where(top_k_index == number)
        if len(tokens):
            own = expert(hidden_states[tokens]) * top_k_weights[tokens, place, None]
            answer.index_add_(0, tokens, own.to(answer.dtype))
    return answer


def _answer_to_given(experts: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The answers to the tokens that each expert is given, one expert behind another; to zeros they are zeros."""
    given = hidden_states.view(len(experts), -1, hidden_states.shape[-1])
    answer = torch.zeros_like(given)
    for number, expert in enumerate(experts):
        tokens = given[number].ne(0).any(-1).nonzero()[:, 0]
        if len(tokens):
            answer[number, tokens] = expert(given[number, tokens]).to(answer.dtype)
    return answer.view(-1, hidden_states.shape[-1])
