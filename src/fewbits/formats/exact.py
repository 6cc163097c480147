"""Arithmetic that gives the same bits in torch (any device) and in the native kernels.

Every step is one IEEE single-precision operation per element; sums run over the last axis one element after another, as
a vector lane does. `torch.sum` would choose an order of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

HALF_MAX = 65504.0
SMALLEST_EXTREME = 2.0**-60
"""A scale made of less rounds to 0 in binary16 anyway."""
LARGEST_RANGE = 2.0**120
"""A range above counts as nothing: no such numbers can be stored."""
SINGULAR = 1e-6
"""A determinant below this share of its larger product counts as zero."""


def ordered_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over the last axis, (..., n) to (...), in the order of the elements."""
    total = torch.zeros_like(x[..., 0])
    for e in range(x.shape[-1]):
        total = total + x[..., e]
    return total


LANES = 16


def lane_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over the last axis, (..., n) to (...), in the order of a machine that adds 16 lanes at once.

    Lane j takes the elements j, j + 16, ...; then the upper half of the lanes is added to the lower one until one is
    left. Long spans are summed so, where `ordered_sum` would wait for one addition after another.
    """
    missing = -x.shape[-1] % LANES
    padded = torch.nn.functional.pad(x, (0, missing))
    lanes = padded.reshape(*x.shape[:-1], -1, LANES)
    total = torch.zeros_like(lanes[..., 0, :])
    for step in range(lanes.shape[-2]):
        total = total + lanes[..., step, :]
    for half in (8, 4, 2, 1):
        total = total[..., :half] + total[..., half : 2 * half]
    return total[..., 0]


def inverse(x: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x != 0, torch.ones_like(x) / x, torch.zeros_like(x))


def fitted_scale(
    x: torch.Tensor,
    steps: torch.Tensor,
    weight: torch.Tensor,
    total: Callable[[torch.Tensor], torch.Tensor] = ordered_sum,
) -> torch.Tensor:
    """The scale (...) that brings `steps` (..., n) nearest to `x` in weighted squares; 0 where all steps are 0."""
    weighted = weight * steps
    return total(weighted * x) * inverse(total(weighted * steps))


def evenly_or(importance: torch.Tensor | None, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Weights in the shape of `x`, which is `w` (rows, cols) by spans: `importance`, or 1 where none is given."""
    return torch.ones_like(x) if importance is None else importance.expand_as(w).reshape(x.shape)


def divided(x: torch.Tensor, by: float) -> torch.Tensor:
    """The quotient x / by, truly divided: torch multiplies by the reciprocal when a divisor is a plain number."""
    return x / torch.full_like(x, by)


def square_root(x: torch.Tensor) -> torch.Tensor:
    """The correctly rounded square root; torch's own in float32 is off by one unit in the last place at times."""
    return x.double().sqrt().float()


def stored_half(x: torch.Tensor) -> torch.Tensor:
    """`x` rounded to binary16 (nearest even, saturating) and back to float32."""
    return x.clamp(-HALF_MAX, HALF_MAX).half().float()


def extreme(x: torch.Tensor) -> torch.Tensor:
    """The first element of largest magnitude along the last axis, sign kept: (..., n) to (...)."""
    magnitude = torch.zeros_like(x[..., 0])
    value = torch.zeros_like(magnitude)
    for e in range(x.shape[-1]):
        larger = x[..., e].abs() > magnitude
        magnitude = torch.where(larger, x[..., e].abs(), magnitude)
        value = torch.where(larger, x[..., e], value)
    return value


def by_spread(w: torch.Tensor, importance: torch.Tensor, span: int, times: int = 2) -> torch.Tensor:
    """Weights (rows, cols) that llama.cpp gives squared errors: importance * sqrt(times * spans' mean square + w^2)."""
    x = w.reshape(len(w), -1, span)
    spread = ordered_sum(x * x) * (times / span)
    return (importance.expand_as(w).reshape(x.shape) * square_root(spread[..., None] + x * x)).reshape(w.shape)


def by_row_spread(w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """The same beside the mean square of the row, once."""
    spread = divided(lane_sum(w * w), float(w.shape[-1]))
    return importance.expand_as(w) * square_root(spread[..., None] + w * w)


def best_scale(x: torch.Tensor, weight: torch.Tensor, top: int, levels: tuple[float, ...]) -> torch.Tensor:
    """The step of `best_step`."""
    return best_step(x, weight, top, levels)[0]


def best_step(
    x: torch.Tensor, weight: torch.Tensor, top: int, levels: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best step of a symmetric grid -top .. top - 1 for `x` (..., n), of one candidate per level, and its gain.

    A candidate divides the extreme element into `level` steps; the step is then refitted by least squares in the given
    weights (..., n), and the one that removes most of the weighted energy wins: that energy is its gain.
    """
    least, most = x.amin(-1).clamp(max=0.0), x.amax(-1).clamp(min=0.0)
    inverse_extreme = inverse(torch.where(-least > most, least, most))
    best = torch.zeros_like(inverse_extreme)
    scale = torch.zeros_like(inverse_extreme)
    for level in levels:
        codes = (x * (-level * inverse_extreme)[..., None]).round().clamp(-top, top - 1)
        weighted = weight * codes
        slx, sll = ordered_sum(weighted * x), ordered_sum(weighted * codes)
        candidate = slx * inverse(sll)
        gain = candidate * slx
        scale = torch.where(gain > best, candidate, scale)
        best = torch.where(gain > best, gain, best)
    return scale, best


SMALLEST_NORMAL = 2.0**-126


def stored_as(x: torch.Tensor, kind: str) -> torch.Tensor:
    """`x` rounded to `kind` (f32, f16 or bf16; nearest even, saturating) and back to float32.

    What is not a normal number of float32 becomes 0: its inverse would be infinite, and some machines flush it.
    """
    if kind == "f16":
        return stored_half(x)
    rounded = x.bfloat16().float() if kind == "bf16" else x
    return torch.where(rounded.abs() < SMALLEST_NORMAL, torch.zeros_like(rounded), rounded)


def best_even_scale(x: torch.Tensor, whole: int, steps: tuple[int, ...], top: int) -> torch.Tensor:
    """The best step of a symmetric grid -top .. top - 1 for `x` (..., n), evenly weighted, searched in whole numbers.

    Numbers become fractions of the extreme element in units of 1 / `whole`, and each of `steps` makes codes of them,
    fraction * step / 2^15: sums of products of whole numbers are exact, in any order. The code that removes most of the
    energy gives the step, by least squares.
    """
    least, most = x.amin(-1).clamp(max=0.0), x.amax(-1).clamp(min=0.0)
    extreme = torch.where(-least > most, least, most)
    large = extreme.abs() > SMALLEST_EXTREME
    per_unit = torch.where(large, torch.full_like(extreme, -whole) / extreme, torch.zeros_like(extreme))
    fractions = (x * per_unit[..., None]).round().int()
    total, squares = torch.zeros_like(extreme), torch.ones_like(extreme)
    for step in steps:  # the largest total^2 / squares, compared without dividing
        codes = ((fractions * step + (1 << 14)) >> 15).clamp(max=top - 1)
        sqx, sqq = (codes * fractions).sum(-1).float(), (codes * codes).sum(-1).float()
        better = (sqx * sqx) * squares > (total * total) * sqq
        total, squares = torch.where(better, sqx, total), torch.where(better, sqq, squares)
    unit = torch.full_like(extreme, -1.0) / torch.full_like(extreme, whole)
    return total / squares * (extreme * unit) + 0.0  # never -0: which zero is the extreme depends on the machine


def best_even_line(
    x: torch.Tensor, low: torch.Tensor, range_: torch.Tensor, whole: int, steps: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The line scale * code + low + start through `x` (..., n) that is best evenly weighted, as (scale, start).

    As `best_even_scale`: numbers become fractions of the range in units of 1 / `whole`, and each of `steps` makes codes
    of them. The codes that explain most of their variance give the line.
    """
    regular = (range_ > SMALLEST_EXTREME) & (range_ < LARGEST_RANGE)
    per_unit = torch.where(regular, torch.full_like(range_, whole) / range_, torch.zeros_like(range_))
    fractions = ((x - low[..., None]) * per_unit[..., None]).round().nan_to_num().int()
    count, total = float(x.shape[-1]), fractions.sum(-1).float()
    above, below, codes_of_best = torch.zeros_like(range_), torch.ones_like(range_), torch.zeros_like(range_)
    for step in steps:  # the largest above^2 / below, compared without dividing
        codes = (fractions * step + (1 << 14)) >> 15
        sl, sll, slf = codes.sum(-1).float(), (codes * codes).sum(-1).float(), (codes * fractions).sum(-1).float()
        covariance, variance = count * slf - total * sl, count * sll - sl * sl
        better = (covariance * covariance) * below > (above * above) * variance
        above, below = torch.where(better, covariance, above), torch.where(better, variance, below)
        codes_of_best = torch.where(better, sl, codes_of_best)
    scale = above / below
    unit = range_ * (torch.ones_like(range_) / torch.full_like(range_, whole))
    return scale * unit, ((total - scale * codes_of_best) * (1.0 / count)) * unit
