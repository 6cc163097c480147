"""Plain searches for the formats of few values and of small floats: squared errors of a span, evenly weighted."""

from __future__ import annotations

from functools import partial

import numpy as np

from references.searches import Floats, error


def few_values(name: str, span: Floats) -> float:
    """One sign, or steps of the largest magnitude, or of the mean magnitude of what is above half the mean."""
    if name == "Q1_0":
        scale = float(np.float16(np.abs(span).mean()))
        return float(((np.where(span >= 0, scale, -scale) - span) ** 2).sum())
    top, size = {"Q2_0": 2}.get(name, 1), np.abs(span)
    if not size.any():
        return 0.0
    scales = (size.max(), size[size > 0.5 * size.mean()].mean())
    return min(error(span, np.ones_like(span), float(np.float16(scale)), 0.0, -1, top) for scale in scales)


def small_floats(name: str, span: Floats) -> float:
    """E2M1 numbers under OCP's power of two, or NVIDIA's smallest scale that loses nothing of the group's largest."""
    numbers = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    e4m3 = np.array([f * 2.0**-9 for f in range(1, 8)] + [f * 2.0**e for e in range(-9, 6) for f in range(8, 16)][:119])
    total = 0.0
    for group in np.abs(span).reshape(-1, 32 if name == "MXFP4" else 16):
        if name == "MXFP4":
            scale = 2.0 ** (np.floor(np.log2(group.max())) - 2)
        else:
            scale = e4m3[min(np.searchsorted(e4m3, group.max() / 6), len(e4m3) - 1)]
        total += float(((scale * numbers[:, None] - group) ** 2).min(0).sum())
    return total


SEARCHES = {
    **{name: partial(few_values, name) for name in ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0")},
    **{name: partial(small_floats, name) for name in ("MXFP4", "NVFP4")},
}
"""Squared error of a span, by a plain search."""
