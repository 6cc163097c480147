"""peft's LoRA layers over packed modules: its names, its files and its switches, and products of our own."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer

from fewbits.errors import TrainingError
from fewbits.layers.modules import Conv1D, Linear
from fewbits.layers.products import rounding_of
from fewbits.training.lora.product import lora_product


class PackedLora(peft_layer.Linear):
    """`peft.tuners.lora.Linear` whose base is packed: the ordinary case is one operation, all others are peft's."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Outputs (..., rows) for `x` (..., cols)."""
        name, base = self._alone(), self._packed()
        if args or kwargs or name is None or rounding_of(base.inputs) is not None or not base.floats:
            out: torch.Tensor = super().forward(x, *args, **kwargs)
            return out
        self._check_forward_args(x)  # type: ignore[no-untyped-call]
        a, b = (half[name].get_parameter("weight") for half in (self.lora_A, self.lora_B))
        scale = self.scaling[name]
        dropout = self.lora_dropout[name]
        if self.training and getattr(dropout, "p", 0.0) > 0.0:
            low = torch.nn.functional.linear(dropout(x), a.to(x.dtype))
            return base(x) + torch.nn.functional.linear(low, b.to(x.dtype)) * scale  # type: ignore[no-any-return]
        return lora_product(base, x, base.bias, a, b, scale)

    def _packed(self) -> Any:
        return self.get_base_layer()

    def _alone(self) -> str | None:
        """The one adapter that is active and ordinary; None where peft has more to do."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or self.disable_adapters or self.merged:
            return None
        special = active[0] in self.lora_variant or self.lora_bias[active[0]]
        return None if special else active[0]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: codes cannot take a change without being rounded again."""
        raise TrainingError(
            "an adapter is not merged into packed weights where they stand; fewbits.training.merge_adapter(BASE, "
            "ADAPTER, OUTPUT) writes the merged model, in floats or in any format."
        )

    def _get_in_out_features(self, module: Any) -> tuple[int, int]:
        rows, cols = module.matrix.shape
        return cols, rows

    def _get_base_layer_device_and_dtype(self, base_layer: Any) -> tuple[torch.device, torch.dtype]:
        return base_layer.like.device, base_layer.like.dtype


CUSTOM: dict[type[torch.nn.Module], type[torch.nn.Module]] = {Linear: PackedLora, Conv1D: PackedLora}
"""Modules of ours -> the layer that adapts them, as `LoraConfig` takes it."""
