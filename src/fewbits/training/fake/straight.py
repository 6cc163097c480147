"""Gradients past rounding: forward the numbers that are stored, backward as if rounding were none."""

from __future__ import annotations

from typing import Any

import torch


def recomputing() -> bool:
    """Whether this forward runs inside of a backward, as gradient checkpointing has it: for the second time."""
    return int(torch._C._current_graph_task_id()) >= 0


class _Through(torch.autograd.Function):
    """`stored` forward, the gradient of `wanted` backward."""

    @staticmethod
    def forward(ctx: Any, wanted: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """The numbers that are stored."""
        return stored.to(wanted.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Gradients of what they came from."""
        return grads[0], None


def through(wanted: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """`stored` (...), whose gradient is that of `wanted` (...) (Bengio et al. 2013, arXiv:1308.3432).

    >>> x = torch.tensor([0.4, 1.7], requires_grad=True)
    >>> through(x, x.detach().round()).square().sum().backward()
    >>> x.grad
    tensor([0., 4.])
    """
    found: torch.Tensor = _Through.apply(wanted, stored)  # type: ignore[no-untyped-call]
    return found


class _Masked(torch.autograd.Function):
    """`stored` forward; backward the gradient of `wanted` where `inside`."""

    @staticmethod
    def forward(ctx: Any, wanted: torch.Tensor, stored: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The numbers that are stored."""
        ctx.save_for_backward(inside)
        return stored.to(wanted.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradients of what they came from."""
        return grads[0] * ctx.saved_tensors[0], None, None


def masked(wanted: torch.Tensor, stored: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """`stored` (...), with the gradient of `wanted` where `inside`, and none where numbers were clipped."""
    found: torch.Tensor = _Masked.apply(wanted, stored, inside)  # type: ignore[no-untyped-call]
    return found


class _Stepped(torch.autograd.Function):
    """Numbers scale * table[code] - offset, with the gradients of `stepped`."""

    @staticmethod
    def forward(
        ctx: Any,
        w: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor,
        zero: torch.Tensor,
        value: torch.Tensor,
        inside: torch.Tensor,
    ) -> torch.Tensor:
        """The numbers that are stored."""
        ctx.save_for_backward(w, scale, offset, zero, value, inside)
        return value.to(w.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of what they came from."""
        w, scale, offset, zero, value, inside = ctx.saved_tensors
        kept = grads[0] * inside
        wants = ctx.needs_input_grad
        found: list[torch.Tensor | None] = [kept if wants[0] else None, None, None, None]
        if wants[1]:
            steps = (grads[0] * (value + offset) - kept * (w + offset)).sum_to_size(scale.shape)
            found[1] = torch.where(scale != 0, steps / scale, torch.zeros_like(scale))
        if wants[2] or wants[3]:
            clipped = grads[0] - kept
            found[2] = -clipped.sum_to_size(offset.shape) if wants[2] else None
            found[3] = -(clipped * scale).sum_to_size(zero.shape) if wants[3] else None
        return *found, None, None


def stepped(
    w: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    zero: torch.Tensor,
    value: torch.Tensor,
    inside: torch.Tensor,
) -> torch.Tensor:
    """`value` (...), what `w` (...) became on a grid scale * (table[code] - zero) - offset; learned step by step.

    Backward, rounding counts as none. Of a number inside the grid the scale gets (value - w) / scale, one that was
    clipped gives it the steps of the last code (LSQ: Esser et al. 2020, arXiv:1902.08153, equation 3), and moves
    offsets by -1 and zero points by -scale (LSQ+: Bhalgat et al. 2020, arXiv:2004.09576, equations 4 and 5). `scale`,
    `offset` and `zero` broadcast to `w`; their gradients are sums over what shares them.

    >>> w, scale = torch.tensor([[0.6, 9.0]]), torch.tensor([[1.0]], requires_grad=True)
    >>> none, inside = torch.zeros(1, 1), torch.tensor([[True, False]])
    >>> stepped(w, scale, none, none, torch.tensor([[1.0, 7.0]]), inside).sum().backward()
    >>> scale.grad
    tensor([[7.4000]])
    """
    found: torch.Tensor = _Stepped.apply(w, scale, offset, zero, value, inside)  # type: ignore[no-untyped-call]
    return found
