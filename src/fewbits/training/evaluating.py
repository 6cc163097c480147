"""What a model's loss is on windows that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fewbits.errors import TrainingError
from fewbits.training.fitting.losses import Loss, next_tokens


def mean_loss(
    model: torch.nn.Module,
    batches: Sequence[Any],
    *,
    loss: Loss = next_tokens,
    progress: Callable[[int, int], None] | None = None,
) -> float | None:
    """The mean loss over all of `batches`, nothing dropped and nothing learned; None where there is no batch.

    Raises TrainingError where it is no number.
    """
    if not batches:
        return None
    modes = {module: module.training for module in model.modules()}
    total, count = 0.0, 0
    try:
        model.eval()
        with torch.no_grad():
            for number, batch in enumerate(batches, start=1):
                found, things = loss(model, batch)
                total, count = total + float(found), count + things
                if progress is not None:
                    progress(number, len(batches))
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not math.isfinite(total):
        raise TrainingError(
            "the loss on held-out data is NaN or infinite: the model answers no numbers; look at it first."
        )
    return total / max(count, 1)
