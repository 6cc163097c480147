"""Linear modules in the places of transformers' Conv1D, which keeps (inputs, outputs): rows are outputs everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

CONV1D = "Conv1D"
"""What transformers calls a linear module whose matrix lies the other way."""


def straighten(network: Any) -> None:
    """Put a linear module in the place of each Conv1D; parameters stay on their device."""
    for name, module in list(network.named_modules()):
        if type(module).__name__ == CONV1D:
            inputs, outputs = module.weight.shape
            network.set_submodule(
                name, torch.nn.Linear(inputs, outputs, device=module.weight.device, dtype=module.weight.dtype)
            )
