"""In which precision a network is computed while it is walked: chosen once, and the same for everything compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

FLOAT32, BFLOAT16 = "float32", "bfloat16"
HALVES = frozenset({"BF16", "F16"})
"""Numbers of networks that were made to be computed in 16 bits."""


def precision_for(numbers: str) -> str:
    """Where weights are stored as `numbers`: bfloat16 if they have 16 bits, and the processor multiplies those faster.

    Sums are float32 either way, and so are the states between layers.

    >>> precision_for("F32")
    'float32'
    """
    return BFLOAT16 if numbers in HALVES and _multiplies_bfloat16() else FLOAT32


def _multiplies_bfloat16() -> bool:
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def computing(precision: str) -> Iterator[None]:
    """Matrix products of this thread are done in `precision`, and nothing is kept for gradients."""
    # torch's switches belong to a thread. What a product is given is rounded anew each time: weights change.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, precision == BFLOAT16, cache_enabled=False):
        yield
