"""The experts of a layer, each with linear modules of its own, in the place of transformers' stacks of matrices.

What chooses experts, and how their answers are put together, stays transformers' own; a stack cannot be watched.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PLACE = ".experts."
"""Part of the names of modules that belong to one expert."""


def list_experts(network: Any) -> None:
    """Put modules that list their experts in the places of those that stack them; parameters stay on their device.

    Raises CalibrationError, naming the module, for stacks of another kind.
    """
    for name, module in list(network.named_modules()):
        if isinstance(getattr(module, "gate_up_proj", None), torch.nn.Parameter) and module.gate_up_proj.dim() > 2:
            if getattr(module, "is_transposed", False) or getattr(module, "has_bias", False):
                raise CalibrationError(
                    f"the experts of {name} ({type(module).__name__}) lie in a way that cannot be followed; take "
                    "--method nearest."
                )
            network.set_submodule(name, _listed_class()(module))


@cache
def _listed_class() -> Any:
    """Made when it is first needed: a class that derives from torch's would load torch with this module."""

    class Expert(torch.nn.Module):
        """One expert's three matrices."""

        def __init__(self, hidden: int, width: int, like: torch.Tensor) -> None:
            super().__init__()
            place: dict[str, Any] = {"bias": False, "device": like.device, "dtype": like.dtype}
            self.gate_proj = torch.nn.Linear(hidden, width, **place)
            self.up_proj = torch.nn.Linear(hidden, width, **place)
            self.down_proj = torch.nn.Linear(width, hidden, **place)

    class ListedExperts(torch.nn.ModuleList):
        """What transformers' module of the same place answers, expert by expert."""

        def __init__(self, stacks: Any) -> None:
            count, twice, hidden = stacks.gate_up_proj.shape
            super().__init__(Expert(hidden, twice // 2, stacks.gate_up_proj) for _ in range(count))
            self._gated = stacks._apply_gate

        def forward(
            self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
        ) -> torch.Tensor:
            answer = torch.zeros_like(hidden_states)
            expert: Any
            for number, expert in enumerate(self):
                tokens, place = torch.where(top_k_index == number)
                if not len(tokens):
                    continue
                x = hidden_states[tokens]
                middle = self._gated(torch.cat([expert.gate_proj(x), expert.up_proj(x)], -1))
                own = expert.down_proj(middle) * top_k_weights[tokens, place, None]
                answer.index_add_(0, tokens, own.to(answer.dtype))
            return answer

    return ListedExperts
