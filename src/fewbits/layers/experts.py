"""Experts that transformers keeps in stacks of three dimensions, as layers of their own, so that each stays packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

GATE_AND_UP, DOWN = "gate_up_proj", "down_proj"
"""The stacks of a module: (experts, 2 * width, hidden) and (experts, hidden, width)."""
PARTS = ("gate_proj", "up_proj", "down_proj")
"""The matrices of one expert."""

Activation = Callable[[torch.Tensor], torch.Tensor]


class Expert(torch.nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, hidden: int, width: int, act: Activation, dtype: torch.dtype) -> None:
        super().__init__()
        sides = {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
        for name, (inputs, outputs) in sides.items():
            layer = torch.nn.Linear(inputs, outputs, bias=False, device="meta", dtype=dtype)
            self.add_module(name, layer.requires_grad_(False))
        self.act_fn = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (tokens, hidden) for `x` (tokens, hidden)."""
        gate, up, down = (self.get_submodule(name) for name in PARTS)
        found: torch.Tensor = down(self.act_fn(gate(x)) * up(x))
        return found


class Experts(torch.nn.Module):
    """In place of transformers' stacks: the same arguments, and `Expert` modules called "0", "1" and so on.

    Only experts that tokens were sent to are asked, the lowest number first, so that what a token gets does not depend
    on the order of others.
    """

    def __init__(self, count: int, hidden: int, width: int, act: Activation, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_experts = count
        for number in range(count):
            self.add_module(str(number), Expert(hidden, width, act, dtype))

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sums (tokens, hidden) of what the experts `top_k_index` (tokens, k) make of `hidden_states`, weighed."""
        found = torch.zeros_like(hidden_states)
        for number in torch.unique(top_k_index).tolist():
            if number >= self.num_experts:  # how a router says that a place is empty
                continue
            tokens, places = torch.where(top_k_index == number)
            outputs = self.get_submodule(str(number))(hidden_states[tokens])
            weighed = outputs * top_k_weights[tokens, places, None]
            found.index_add_(0, tokens, weighed.to(found.dtype))
        return found


def in_place_of(stacks: Any) -> Experts:
    """Experts without memory of the shapes of `stacks`."""
    count, hidden, width = stacks.get_parameter(DOWN).shape
    return Experts(count, hidden, width, stacks.act_fn, stacks.get_parameter(DOWN).dtype)


def why_not(module: torch.nn.Module) -> str | None:
    """Why the experts of `module` are no layers of their own; None where they can be, and "" for what has no stacks.

    >>> why_not(torch.nn.Linear(2, 2))
    ''
    """
    sides = [module._parameters.get(name) for name in (GATE_AND_UP, DOWN)]
    if any(each is None or each.dim() != 3 for each in sides):
        return ""
    stated = {name: getattr(module, name, None) for name in _PLAIN}
    odd = [name for name, value in stated.items() if value is not _PLAIN[name]]
    gate = getattr(type(module), "_apply_gate", None)
    if getattr(gate, "__name__", "") != "_default_apply_gate" or not callable(getattr(module, "act_fn", None)):
        odd.append("a gate of its own")
    return f"{type(module).__name__} has {', '.join(odd)}" if odd else None


_PLAIN = {
    "has_gate": True,
    "has_bias": False,
    "has_post_expert_norm": False,
    "is_transposed": False,
    "is_concatenated": True,
}
"""How transformers describes experts whose rows are outputs, gates before the rest, and nothing else is computed."""
