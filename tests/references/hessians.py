"""Matrices, and Hessians of inputs, that can reveal a mistake: no unit matrix, no columns of one size."""

from __future__ import annotations

import torch

from fewbits.formats import Format


def hessian_of(cols: int, seed: int = 0) -> torch.Tensor:
    """The Hessian (cols, cols) of inputs whose columns depend on each other and are of unlike size."""
    drawn = torch.Generator().manual_seed(seed)
    mixed = torch.eye(cols) + 2 * torch.randn(cols, cols, generator=drawn) / cols**0.5
    x = torch.randn(4 * cols, cols, generator=drawn) @ mixed * torch.rand(cols, generator=drawn).add(0.2)
    return x.T @ x / len(x)


def weights(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers (rows, cols)."""
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def width(format: Format) -> int:
    """Columns: two spans, or about a hundred."""
    span = max(format.span, 1)
    return 2 * span if span >= 96 else 96 // span * span
