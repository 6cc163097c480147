"""What a model is trained to make small: a sum, and the number of things that are summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Loss = Callable[[Any, Any], tuple[torch.Tensor, int]]
"""loss(model, batch) -> (the sum of losses, of how many): sums, so that batches of unlike size add up to one mean."""

IGNORED = -100
"""The label of a token that is not to be predicted."""


def next_tokens(model: Any, batch: Any) -> tuple[torch.Tensor, int]:
    """Cross-entropy, in nats, of each token after those before it; `batch` has "input_ids" and "labels" (rows, length).

    Labels are the ids themselves, or IGNORED where nothing is to be learned; the first of a row predicts nothing.
    """
    options = {"attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
    logits = model(input_ids=batch["input_ids"], use_cache=False, **options).logits
    return summed(logits, batch["labels"])


def summed(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum over all labels (rows, length) that count, and how many; of `logits` (rows, length, vocabulary).

    >>> loss, count = summed(torch.zeros(1, 3, 8), torch.tensor([[1, 2, IGNORED]]))
    >>> round(float(loss), 4), count
    (2.0794, 1)
    """
    wanted = labels[:, 1:].reshape(-1)
    counts = wanted != IGNORED
    chosen = logits[:, :-1].reshape(-1, logits.shape[-1])
    total = torch.nn.functional.cross_entropy(chosen.float(), wanted, ignore_index=IGNORED, reduction="sum")
    return total, int(counts.sum())
