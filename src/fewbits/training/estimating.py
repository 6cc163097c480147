"""What a training takes, before it begins: estimated from shapes, or measured by trying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fewbits.reporting.training_record import Measured
from fewbits.training.fitting.history import History, Step
from fewbits.training.fitting.settings import Settings

_MOMENTS = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of the optimizer per number that is learned."""
_OF_HIDDEN, _OF_INNER = 12, 4
"""Numbers per token that a layer keeps for its gradients, in units of its widths: norms, products, residuals."""
_OF_LOGITS = 3
"""Logits, their softmax and its gradient."""


def memory_parts(model: torch.nn.Module, settings: Settings, batch: int, length: int) -> dict[str, int]:
    """Bytes that a training holds: weights, what is learned, states of layers, logits. An estimate from shapes."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if config is not None else None
    hidden = getattr(config, "hidden_size", 0)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layers, vocabulary = getattr(config, "num_hidden_layers", 0), getattr(config, "vocab_size", 0)
    tokens, size = batch * length, 2 if settings.precision == "bfloat16" else 4
    layer = tokens * (_OF_HIDDEN * hidden + _OF_INNER * inner) * size
    states = layer + layers * tokens * hidden * size if settings.checkpointing else layers * layer
    return {
        "weights": weights,
        "learned": trained * (4 + _MOMENTS[settings.optimizer]),  # gradients and moments; the numbers are weights
        "states": states,
        "logits": _OF_LOGITS * 4 * tokens * vocabulary,
    }


def measured(steps: Sequence[Step], history: History) -> Measured:
    """What the last of `steps` took: the first one also makes what later ones find ready."""
    last = steps[-1]
    return Measured(last.seconds, last.tokens / last.seconds, history.peak_memory)
