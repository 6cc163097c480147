"""What the searches minimise, and plain searches to compare with, in float64 and written from the mathematics.

For numbers x with weights w and a grid of codes 0 .. top, the weighted squared error of scale * code - low, each
number at its nearest code, is the objective. The searches divide the range of a group into a little less or more than
`top` steps, in 21 ways, fit a line to the codes of each by least squares, and keep the best.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from references import lattices, shifted_lattice

Floats = npt.NDArray[np.float64]


def affine_weights(group: Floats) -> Floats:
    """Q4_K and Q5_K: the group's root mean square + |x|."""
    return np.sqrt(np.mean(group**2)) + np.abs(group)


SQUARED = ("Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ1_M")
"""Formats that ggml weights by x^2 without importance."""

SPREAD = {
    **{"Q4_0": (0, 1), "Q4_1": (0, 1), "Q5_0": (0, 1), "Q5_1": (0, 1)},
    **{"Q2_K": (256, 1), "Q3_K": (256, 2), "Q4_K": (256, 2), "Q5_K": (256, 2)},
    **{"IQ4_NL": (32, 2), "IQ4_XS": (256, 2), "IQ1_S": (256, 2), "IQ1_M": (256, 2)},
    **{"IQ2_XXS": (256, 1), "IQ2_XS": (256, 1), "IQ2_S": (256, 2), "IQ3_XXS": (256, 2), "IQ3_S": (256, 2)},
}
"""Formats that ggml weights by importance * sqrt(times * mean square + x^2): (columns of that mean, 0 = all; times)."""

REFUSED = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
"""Formats that ggml refuses without importance: an even one is measured."""


def weights(name: str, w: Floats, importance: Floats | None = None) -> Floats:
    """The weights (rows, cols) in which ggml measures errors of `name`, by importance (cols,) where that is given."""
    if importance is not None and name not in SPREAD:  # Q6_K takes it as it is, the others look away
        return np.broadcast_to(importance, w.shape)
    if importance is not None:
        columns, times = SPREAD[name]
        spans = w.reshape(len(w), -1, columns or w.shape[1])
        spread = times * np.mean(spans**2, axis=-1, keepdims=True)
        return importance * np.sqrt(spread + spans**2).reshape(w.shape)
    if name == "Q2_K":  # ggml counts absolute errors here, each times |x|
        return np.abs(w)
    if name in REFUSED:
        return weights(name, w, np.ones(w.shape[-1]))
    if name == "IQ2_S":
        spans = w.reshape(-1, 256)
        return (spans**2 + np.mean(spans**2, axis=-1, keepdims=True) / 2).reshape(w.shape)
    if name in ("Q4_K", "Q5_K"):
        groups = w.reshape(-1, 32)
        return (np.sqrt(np.mean(groups**2, axis=-1, keepdims=True)) + np.abs(groups)).reshape(w.shape)
    return w**2 if name in SQUARED else np.ones_like(w)


def own_weights(name: str, w: Floats) -> Floats:
    """What the format itself minimises without importance, where that is not what ggml does: part of it is even."""
    if name in lattices.SEARCHES:
        return np.array([lattices.own_weights(name, span) for span in w.reshape(-1, 256)]).reshape(w.shape)
    if name in shifted_lattice.SEARCHES:
        return np.array([shifted_lattice.own_weights(name, span) for span in w.reshape(-1, 256)]).reshape(w.shape)
    if name not in ("Q2_K", "Q3_K"):
        return weights(name, w)
    groups = w.reshape(-1, 16)
    square = np.mean(groups**2, axis=-1, keepdims=True)
    found: Floats = 0.125 * np.sqrt(square) + np.abs(groups) if name == "Q2_K" else groups**2 + square
    return found.reshape(w.shape)


def nearest(group: Floats, scale: float, low: float, bottom: int, top: int) -> Floats:
    """Numbers of the grid nearest to `group`, by trying every code."""
    values = scale * np.arange(bottom, top + 1) - low
    found: Floats = values[np.abs(values[:, None] - group).argmin(0)]
    return found


def error(group: Floats, w: Floats, scale: float, low: float, bottom: int, top: int) -> float:
    return float((w * (nearest(group, scale, low, bottom, top) - group) ** 2).sum())


def best_line(group: Floats, w: Floats, top: int, *, steps: int = 21) -> tuple[float, float, float]:
    """(error, scale, low) of the best line scale * code - low with low >= 0, over `steps` candidate ranges."""
    low, high = min(float(group.min()), 0.0), float(group.max())
    best = (float((w * np.minimum(group, 0.0) ** 2).sum() + (w * np.maximum(group, 0.0) ** 2).sum()), 0.0, 0.0)
    if high == low:
        return min(best, (error(group, w, 0.0, -low, 0, top), 0.0, -low))
    for candidate in range(steps):
        width = (high - low) / (top - 1 + 0.1 * candidate)
        codes = np.clip(np.rint((group - low) / width), 0, top)
        scale, offset = _least_squares(codes, group, w)
        if offset > 0:  # the line must start at or below zero
            scale, offset = float((w * codes * group).sum() / max((w * codes * codes).sum(), 1e-300)), 0.0
        best = min(best, (error(group, w, scale, -offset, 0, top), scale, -offset))
    return best


def _least_squares(codes: Floats, group: Floats, w: Floats) -> tuple[float, float]:
    """(slope, offset) of the weighted line through (codes, group)."""
    mean_code, mean = np.average(codes, weights=w), np.average(group, weights=w)
    spread = (w * (codes - mean_code) ** 2).sum()
    slope = float((w * (codes - mean_code) * (group - mean)).sum() / spread) if spread > 0 else 0.0
    return slope, float(mean - slope * mean_code)


def best_step(group: Floats, w: Floats, top: int, *, steps: int = 19) -> tuple[float, float]:
    """(error, scale) of the best scale * code with codes -top .. top - 1, over `steps` candidate ranges."""
    extreme = float(group[np.abs(group).argmax()])
    best = (float((w * group**2).sum()), 0.0)
    for candidate in range(-(steps // 2), steps // 2 + 1) if extreme else ():
        codes = np.clip(np.rint(group * -(top + 0.1 * candidate) / extreme), -top, top - 1)
        squares = (w * codes * codes).sum()
        if squares > 0:
            scale = float((w * codes * group).sum() / squares)
            best = min(best, (error(group, w, scale, 0.0, -top, top - 1), scale))
    return best


def two_level(name: str, span: Floats) -> float:
    """Weighted error of one span of 256 in a K-quant: best lines, then whole scales."""
    if name in ("Q3_K", "Q6_K"):
        return _two_level_symmetric(name, span, *{"Q3_K": (4, 32), "Q6_K": (32, 128)}[name])
    count, top, ceiling = {"Q2_K": (16, 3, 15), "Q4_K": (8, 15, 63), "Q5_K": (8, 31, 63)}[name]
    by = partial(own_weights, name) if name == "Q2_K" else affine_weights
    groups = span.reshape(count, -1)
    lines = [best_line(group, by(group), top)[1:] for group in groups]
    d, dmin = (float(np.float16(max(values) / ceiling)) for values in zip(*lines, strict=True))
    total = 0.0
    for group, (scale, low) in zip(groups, lines, strict=True):
        whole = [np.clip(np.rint(v / unit), 0, ceiling) if unit else 0.0 for v, unit in ((scale, d), (low, dmin))]
        total += error(group, by(group), d * whole[0], dmin * whole[1], 0, top)
    return total


def _two_level_symmetric(name: str, span: Floats, top: int, scale_top: int) -> float:
    groups = span.reshape(16, 16)
    by = partial(own_weights, name)
    scales = np.array([best_step(group, by(group), top)[1] for group in groups])
    d = float(np.float16(scales[np.abs(scales).argmax()] / -scale_top))
    whole = np.clip(np.rint(scales / d), -scale_top, scale_top - 1) if d else 0 * scales
    return sum(error(g, by(g), d * s, 0.0, -top, top - 1) for g, s in zip(groups, whole, strict=True))


def one_level(name: str, span: Floats) -> float:
    """Squared error of one span of 32 in Q4_0, Q5_0, Q8_0, Q4_1 or Q5_1, with binary16 parameters."""
    even = np.ones_like(span)
    if name == "Q8_0":
        return error(span, even, float(np.float16(np.abs(span).max() / 127)), 0.0, -127, 127)
    if name in ("Q4_1", "Q5_1"):
        low, top = float(np.float16(span.min())), {"Q4_1": 15, "Q5_1": 31}[name]
        return error(span, even, float(np.float16((span.max() - span.min()) / top)), -low, 0, top)
    top = {"Q4_0": 8, "Q5_0": 16}[name]
    extreme = float(span[np.abs(span).argmax()])
    return error(span, even, float(np.float16(extreme / -top)), 0.0, -top, top - 1)
