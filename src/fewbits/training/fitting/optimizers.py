"""Optimizers by name, and what each of them needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from fewbits.errors import TrainingError
from fewbits.training.fitting.settings import Settings

Groups = Iterable[Mapping[str, Any]]
"""Groups of parameters as torch's optimizers take them; "rate" multiplies the learning rate of one."""


def make_optimizer(model: torch.nn.Module, settings: Settings, groups: Groups | None = None) -> Any:
    """The optimizer of `settings` over `groups`, or over everything that has gradients.

    Raises TrainingError where nothing has, or a library is missing.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(
            "nothing of the model is trained: no parameter wants a gradient; add an adapter (add_lora), prepare it "
            "(prepare), or let parameters have gradients."
        )
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas}
    options["weight_decay"] = settings.weight_decay
    given: Any = trained if groups is None else [{"rate": 1.0, **group} for group in groups]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(given, **options)
    require_eight_bits(settings.optimizer, trained[0].device)
    import bitsandbytes

    kinds = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit"}
    return getattr(bitsandbytes.optim, kinds[settings.optimizer])(given, **options)


def require_eight_bits(name: str, device: torch.device) -> None:
    """Raise TrainingError where bitsandbytes' optimizer `name` cannot work with parameters on `device`."""
    if name.startswith("paged") and device.type == "cpu":
        raise TrainingError(
            f"the optimizer {name} moves moments between a GPU and the CPU, and the model is on the CPU alone; take "
            "adamw_8bit."
        )
    if find_spec("bitsandbytes") is None:
        raise TrainingError(
            f"the optimizer {name} is bitsandbytes', which is not installed; pip install bitsandbytes, or take adamw."
        )


def set_rate(optimizer: Any, rate: float) -> None:
    """Give every group its learning rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)
