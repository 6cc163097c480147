"""Losses that let a student answer as its teacher does (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy, log_softmax

from fewbits.errors import TrainingError


def distillation(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean KL divergence of the teacher's distribution from the student's, in nats, times temperature^2.

    Logits are (..., classes); `mask` (...) says which count. Raises TrainingError where shapes differ.

    >>> teacher = torch.tensor([[2.0, 0.0]])
    >>> float(distillation(teacher, teacher)), round(float(distillation(torch.zeros(1, 2), teacher)), 4)
    (0.0, 0.3278)
    """
    if student_logits.shape != teacher_logits.shape:
        raise TrainingError(
            f"the student answers {tuple(student_logits.shape)} and the teacher {tuple(teacher_logits.shape)}; they "
            "have to answer the same inputs over the same classes."
        )
    ours = log_softmax(student_logits.float() / temperature, -1)
    theirs = log_softmax(teacher_logits.detach().float() / temperature, -1)
    each = (theirs.exp() * (theirs - ours)).sum(-1)
    mean = each.mean() if mask is None else (each * mask).sum() / mask.sum().clamp(min=1)
    return mean * temperature**2


def with_labels(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    share: float = 0.5,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`share` of `distillation`, the rest cross entropy with `labels` (...), of which -100 counts as none.

    >>> round(float(with_labels(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]), share=0.5)), 4)
    0.3466
    """
    own = cross_entropy(student_logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100)
    return share * distillation(student_logits, teacher_logits, temperature) + (1 - share) * own


def states_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of the squared error of states, over the teacher's mean square (Romero et al. 2014, 1412.6550).

    >>> float(states_loss([torch.zeros(1, 2)], [torch.ones(1, 2)]))
    1.0
    """
    each = [
        (s - t.detach()).float().square().mean() / t.detach().float().square().mean().clamp(min=1e-12)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(each).mean()
