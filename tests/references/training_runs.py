"""A tiny network, its data, and the loop of a training written out, in plain torch; nothing of fewbits.

The plain loop has AdamW of torch in its slow form, one batch after another, and the schedule as a formula.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch


class Tiny(torch.nn.Module):
    """Two layers with dropout and a buffer that training changes."""

    def __init__(self, *, dropout: float = 0.0, width: int = 16, inputs: int = 4, bias: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = torch.nn.Linear(inputs, width, bias=bias)
        self.norm = torch.nn.BatchNorm1d(width) if inputs == 4 else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(dropout)
        self.second = torch.nn.Linear(width, 1, bias=bias)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.tanh(self.norm(self.first(x)))))


def batches_of() -> list[torch.Tensor]:
    """Five batches of unlike sizes."""
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(rows, 4, generator=generator) for rows in (3, 5, 4, 6, 2)]


def squares(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum of squared distances to what is to be learned, and of how many rows."""
    wanted = x.sum(1, keepdim=True)
    return (model(x) - wanted).square().sum(), len(x)


def plain_losses(settings: Any) -> tuple[list[float], torch.Tensor]:
    """Loss of each step and the first layer's weights at the end, by a loop that is written out."""
    model, data = Tiny(), batches_of()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0, foreach=False)
    order: list[int] = []
    for turn in range(10):
        chance = random.Random(f"{settings.seed} {turn}")
        keys = [(chance.random(), number) for number in range(len(data))]
        order += [number for _, number in sorted(keys)]
    losses = []
    for step in range(settings.steps):
        chosen = [data[order[2 * step + each]] for each in range(2)]
        rows = sum(len(x) for x in chosen)
        optimizer.zero_grad()
        total = 0.0
        for x in chosen:
            loss = squares(model, x)[0] / rows
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        warm = round(settings.warmup * settings.steps)
        rate = (
            (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (settings.steps - warm))) / 2
        )
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
        optimizer.step()
        losses.append(total)
    return losses, model.first.weight.detach()
