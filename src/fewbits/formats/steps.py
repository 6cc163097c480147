"""Searches for the step of an even grid, on numbers divided by the largest magnitude of their span.

In that measure no sum overflows and none underflows, however large or small the numbers are, and a search does the
same for a span and for a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.exact import SMALLEST_NORMAL, inverse, lane_sum
from fewbits.formats.grids import nearest_in
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


REACH = {32: 0.85, 64: 0.93, 128: 1.0, 256: 1.07, 512: 1.2}
"""The longer a span, the farther its largest number is from the usual ones: how much, up to each length."""
LONG = 1.7


def levels(steps: int, window: tuple[float, float], count: int, length: int) -> tuple[float, ...]:
    """Into how many steps a search divides the largest magnitude: `steps` itself, then `count` more numbers.

    `window` is what pays at spans of 128, in units of `steps`, from the smallest number to the largest; they grow by a
    constant ratio between. All are multiples of steps / 64, so that no machine rounds them otherwise.

    >>> levels(7, (1.0, 1.5), 3, 128)
    (7.0, 7.0, 8.53125, 10.5)
    """
    reach = next((factor for longest, factor in REACH.items() if 0 < length <= longest), LONG)
    low, high = max(window[0] * min(reach, 1.0), 0.85), max(window[1] * reach, 1.02)
    factors = (low * (high / low) ** (k / (count - 1)) for k in range(count))
    return (float(steps), *(steps * round(64 * factor) / 64 for factor in factors))


@dataclass(frozen=True)
class Measured:
    """Numbers `y` (lines, n, length) in -1 .. 1, in units of `size` (lines, n), and the weights of their errors."""

    y: torch.Tensor
    size: torch.Tensor
    weight: torch.Tensor

    @staticmethod
    def of(x: torch.Tensor, weight: torch.Tensor) -> Measured:
        """`x` (lines, n, length) measured by its largest magnitudes; what is smaller than any scale counts as 0."""
        size = x.abs().amax(-1)
        size = torch.where(size < SMALLEST_NORMAL, torch.zeros_like(size), size)
        return Measured(x * inverse(size)[..., None], size, weight)


def symmetric_step(m: Measured, bottom: int, top: int, levels: tuple[float, ...]) -> torch.Tensor:
    """The best step of the grid bottom .. top (0 among them), (lines, n): of one candidate per level.

    A candidate divides the largest magnitude into `level` steps; the step is then refitted by least squares, and the
    one that removes most of the weighted energy wins.
    """
    best, step = torch.zeros_like(m.size), torch.zeros_like(m.size)
    for level in levels:
        codes = (m.y * level).round().clamp(bottom, top)
        weighted = m.weight * codes
        slx, sll = lane_sum(weighted * m.y), lane_sum(weighted * codes)
        candidate = slx * inverse(sll)
        gain = candidate * slx
        step = torch.where(gain > best, candidate, step)
        best = torch.where(gain > best, gain, best)
    return step * m.size


def table_step(m: Measured, table: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    """The best scale of the numbers `table` (codes,), (lines, n): of one candidate per level.

    A candidate puts the largest magnitude at `level`; the scale is then refitted by least squares.
    """
    best, step = torch.zeros_like(m.size), torch.zeros_like(m.size)
    for level in levels:
        numbers = table[nearest_in(table, m.y * level)]
        weighted = m.weight * numbers
        slx, sll = lane_sum(weighted * m.y), lane_sum(weighted * numbers)
        candidate = slx * inverse(sll)
        gain = candidate * slx
        step = torch.where(gain > best, candidate, step)
        best = torch.where(gain > best, gain, best)
    return step * m.size


def sign_step(m: Measured) -> torch.Tensor:
    """The best step where codes are signs: the mean magnitude."""
    return lane_sum(m.weight * m.y.abs()) * inverse(lane_sum(m.weight)) * m.size


def zero_and_step(m: Measured, top: int, levels: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The best zero point and step of the grid -zero .. top - zero, (lines, n) each.

    A candidate divides the range, which includes 0, into `level` steps.
    """
    low, high = m.y.amin(-1).clamp(max=0.0), m.y.amax(-1).clamp(min=0.0)
    width_inverse = inverse(high - low)
    best, step, zero = torch.zeros_like(m.size), torch.zeros_like(m.size), torch.zeros_like(m.size)
    for level in levels:
        inv = level * width_inverse
        at = (-low * inv * min(1.0, top / level)).round().clamp(0, top) + 0.0
        codes = ((m.y * inv[..., None]).round() + at[..., None]).clamp(0, top) - at[..., None]
        weighted = m.weight * codes
        slx, sll = lane_sum(weighted * m.y), lane_sum(weighted * codes)
        candidate = slx * inverse(sll)
        gain = candidate * slx
        zero = torch.where(gain > best, at, zero)
        step = torch.where(gain > best, candidate, step)
        best = torch.where(gain > best, gain, best)
    return zero, step * m.size


def step_at(m: Measured, steps: torch.Tensor) -> torch.Tensor:
    """The step (lines, n) that fits best where numbers are `steps` (lines, n, length) steps from 0."""
    weighted = m.weight * steps
    return lane_sum(weighted * m.y) * inverse(lane_sum(weighted * steps)) * m.size


def zero_and_step_at(m: Measured, codes: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The zero point and step (lines, n) that fit best at `codes` (lines, n, length): all zero points are tried."""
    w, q, y = m.weight.double(), codes.double(), m.y.double()
    sw, sq, sqq, sy, sqy = (lane_sum(part) for part in (w, w * q, w * q * q, w * y, w * q * y))
    best, step, zero = torch.full_like(sw, -1.0), torch.zeros_like(sw), torch.zeros_like(sw)
    for at in range(top + 1):
        slx, sll = sqy - at * sy, sqq - 2 * at * sq + at * at * sw
        candidate = slx * inverse(sll)
        better = candidate * slx > best
        zero = torch.where(better, torch.full_like(zero, at), zero)
        step = torch.where(better, candidate, step)
        best = torch.where(better, candidate * slx, best)
    return zero.float(), step.float() * m.size
