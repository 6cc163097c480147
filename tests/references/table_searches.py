"""Plain searches for formats whose codes index a table of uneven numbers, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from references.formats import UNEVEN

Floats = npt.NDArray[np.float64]
_NUMBERS = np.array(UNEVEN, np.float64)


def nearest(group: Floats, scale: float) -> Floats:
    """Numbers scale * table[code] nearest to `group`, by trying every code."""
    values = scale * _NUMBERS
    found: Floats = values[np.abs(values[:, None] - group).argmin(0)]
    return found


def error(group: Floats, scale: float) -> float:
    """Weighted by x^2, as ggml does."""
    return float((group**2 * (nearest(group, scale) - group) ** 2).sum())


def best_scale(group: Floats) -> float:
    """The best of scales that make the largest number -134 to -120 or 127, each refitted by least squares."""
    extreme = float(group[np.abs(group).argmax()])
    best = (float((group**4).sum()), 0.0)
    for target in (127, *range(-134, -119)) if extreme else ():
        numbers = nearest(group, extreme / target) / (extreme / target)
        scale = float((group**3 * numbers).sum() / (group**2 * numbers**2).sum())
        best = min(best, (error(group, scale), scale))
    return best[1]


def iq4_nl(span: Floats) -> float:
    """Weighted error of one span of 32."""
    return error(span, float(np.float16(best_scale(span))))


def iq4_xs(span: Floats) -> float:
    """Weighted error of one span of 256, with scales of six bits."""
    groups = span.reshape(8, 32)
    scales = np.array([best_scale(group) for group in groups])
    d = float(np.float16(scales[np.abs(scales).argmax()] / -32))
    whole = np.clip(np.rint(scales / d), -32, 31) if d else 0 * scales
    return sum(error(group, d * scale) for group, scale in zip(groups, whole, strict=True))


SEARCHES: dict[str, Callable[[Floats], float]] = {"IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}
