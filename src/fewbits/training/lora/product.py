"""y = x W^T + b + scale (x A^T) B^T as one operation: W stored and frozen, A and B trained (LoRA).

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1. What peft's own layer does in nine passes over the outputs, with
inputs and outputs widened to float32 where the network computes in bfloat16, is one addition into the outputs here, and
one into the gradients of the inputs. A and B are multiplied in the type of the inputs, as under torch's autocast.
"""

from __future__ import annotations

from typing import Any

import torch

from fewbits.layers.modules import Packed
from fewbits.layers.ops import linear_floats, linear_grad


def lora_product(
    module: Packed, x: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """Outputs (..., rows) of `module` for `x` (..., cols) with the adapter `a` (rank, cols), `b` (rows, rank).

    Gradients are those of x, a and b; `module` and its bias are frozen.
    """
    matrix = module.matrix
    named = (matrix.format, ",".join(matrix.fields), *matrix.shape)
    fixed = None if bias is None else bias.detach()
    out: torch.Tensor = _Product.apply(x, a, b, scale, fixed, named, *matrix.tensors())  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        bias: torch.Tensor | None,
        named: tuple[str, str, int, int],
        *fields: torch.Tensor,
    ) -> torch.Tensor:
        """Outputs (..., rows); what is kept is x and x A^T."""
        tokens = x.reshape(-1, x.shape[-1])
        low = tokens @ a.to(x.dtype).T
        out = linear_floats(tokens, bias, list(fields), *named)
        out.addmm_(low, b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x, a, b, low, *fields)
        ctx.scale, ctx.named = scale, named
        return out.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """Gradients of x, A and B for those of the outputs (..., rows)."""
        x, a, b, low, *fields = ctx.saved_tensors
        tokens, own = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        wants_x, wants_a, wants_b = ctx.needs_input_grad[:3]
        back = own @ b.to(own.dtype)  # (tokens, rank)
        grad_b = (own.T @ low).to(b.dtype).mul_(ctx.scale) if wants_b else None
        grad_a = (back.T @ tokens).to(a.dtype).mul_(ctx.scale) if wants_a else None
        grad_x = None
        if wants_x:
            grad_x = linear_grad(own, fields, *ctx.named).addmm_(back, a.to(own.dtype), alpha=ctx.scale)
            grad_x = grad_x.reshape(x.shape)
        return grad_x, grad_a, grad_b, None, None, None, *[None] * len(fields)
