"""Numbers that lead a fit through all of its branches; the same on every machine and in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.formats.base import Bytes
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Numbers of a source, by torch's name of their type."""


def stored(w: torch.Tensor, numbers: str) -> tuple[torch.Tensor, Bytes]:
    """The matrix as `numbers` hold it, float32, and its bytes."""
    held = w.to(getattr(torch, DTYPES[numbers])).contiguous()
    return held.float(), held.view(torch.uint8).numpy()


def normal(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers (rows, cols) float32."""
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(20261121 + seed))


def matrices(rows: int, cols: int, largest: float) -> dict[str, torch.Tensor]:
    """Matrices (rows, cols) by what is hard about them; none holds a magnitude beyond `largest`."""
    x = normal(rows, cols)
    sign = torch.where(normal(rows, cols, 1) < 0, -1.0, 1.0)
    spike = 0.01 * x
    spike[:, 3::29] = 7.0
    return {
        "ordinary": 0.02 * x,
        "heavy-tailed": x**3,
        "positive": x.abs(),
        "negative": -x.abs(),
        "far from zero": 5.0 + 0.01 * x,
        "sparse": torch.where(x > 1.5, x, torch.zeros_like(x)),
        "spikes": spike,
        "two values": sign * 0.37,
        "whole numbers": (4.0 * x).round(),
        "zero": torch.zeros_like(x),
        "zeros of both signs": 0.0 * sign,
        "positive constant": torch.full_like(x, 0.37),
        "negative constant": torch.full_like(x, -0.37),
        "near the smallest scales": 1e-6 * x,
        "below the smallest scales": 1e-9 * x,
        "subnormal": 1e-39 * x,
        "smallest number": torch.where(x > 0, torch.full_like(x, 1.4e-45), torch.zeros_like(x)),
        "huge": (largest / 4.5 * x).clamp(-largest, largest),
        "largest": largest * sign,
        "largest constant": torch.full_like(x, largest),
        "most negative constant": torch.full_like(x, -largest),
        "many magnitudes": x * 10.0 ** (4.0 * normal(rows, cols, 2)).clamp(-8, 3),
    }
