"""What GGUF's lattice formats share: points of a lattice, signs, and scales in two levels over spans of 256 columns.

A group's step is an odd number 1, 3 .. 31 times the span's binary16 scale d and a power of two. Fitting knows one
thing only, the error of a group under a step when every vector takes its nearest point: the best of a few steps per
group, then the odd numbers around it for two d, then d a little smaller and larger. The error of the first step says
how large errors are; all others are counted in small parts of it, in whole numbers. The native kernels do the same in
the same order, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import divided, fitted_scale, inverse, ordered_sum, square_root, stored_half
from fewbits.formats.lattice_bits import Layout, from_bits, layout_bits, to_bits
from fewbits.formats.lattice_grid import LatticeGrid, VectorCode
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 256
TOP_SCALE = 15.0
"""The largest stored scale s, which means 2 s + 1 units."""

UNITS = (31.0, 29.0)
"""How many units the span's largest step may be taken for when d is chosen."""

NUDGES = (63 / 64, 65 / 64)
"""Factors that d is tried with at the end."""

COUNTS = 2048.0
"""What errors are counted in: so many for a point of average error, at the first step."""

SHARE = 1 / 1024
"""Of a group's energy: a smaller error at the first step does not make counts smaller."""

NARROWEST = 1e-30
"""Groups of less error and energy are not searched."""

GroupError = Callable[["torch.Tensor"], "torch.Tensor"]
"""Steps (rows, groups) to errors (rows, groups)."""


@dataclass(frozen=True)
class LatticeFormat(GridCodec):
    """w = unit * d * (2 * scale[g] + 1) * signed point: groups of `length` columns, scales 0 .. 15.

    Squared errors are weighted by w^2 plus the span's mean square unless importance is given; with `rooted`, by the
    root of that. Importance is multiplied with the root of w^2 plus `spread` times the mean square, as ggml does.
    """

    name: str
    code: VectorCode
    length: int
    unit: float
    levels: tuple[float, ...]
    spread: float
    rooted: bool
    bits_of_span: Layout
    error_bound: float
    equation: str
    layout: str
    source: str
    span: int = SPAN
    rows: int = 1

    def __post_init__(self) -> None:
        assert layout_bits(self.bits_of_span) % 8 == 0, "whole bytes to a span"

    @property
    def span_bytes(self) -> int:
        """Bytes of d and of all points, signs and scales."""
        return 2 + layout_bits(self.bits_of_span) // 8

    @property
    def vector(self) -> int:
        """Columns rounded together."""
        return self.code.vector

    @property
    def largest(self) -> float:
        """The largest d, scale and number of a point."""
        return 65504.0 * self.unit * (2 * TOP_SCALE + 1) * self.code.top

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times what it is multiplied with at most."""
        return 2.0**-25 * self.unit * (2 * TOP_SCALE + 1) * self.code.top

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """Importance * sqrt(spread * mean square of the span + w^2), (rows, cols)."""
        return importance * square_root(self.spread * _mean_square(w) + w * w)

    def _own_weights(self, w: torch.Tensor) -> torch.Tensor:
        squares = _mean_square(w) + w * w
        return square_root(squares) if self.rooted else squares

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """D (rows, spans) and whole scales (rows, groups): searched for, or fitted to given codes (rows, vectors)."""
        weight = self._own_weights(w) if importance is None else importance.expand_as(w)
        x, weight = (t.reshape(len(w), -1, self.length) for t in (w, weight))
        if codes is None:
            return self._scales(*self._search(x, weight))
        q = self.code.numbers(codes).reshape(x.shape)

        def error_at_codes(step: torch.Tensor) -> torch.Tensor:
            r = step[..., None] * q - x
            return ordered_sum((weight * r) * r)

        fitting = fitted_scale(x, q, weight)
        return self._scales(fitting.clamp(min=0.0), error_at_codes)

    def _search(self, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, GroupError]:
        """The best of the candidate steps of each group (rows, groups), and how errors are counted."""
        table, each = self.code.lattice(x.device), self.length // self.code.width
        points = self._towards(x, weight).reshape(-1, table.width)

        def spread(steps: torch.Tensor) -> torch.Tensor:
            return steps.flatten().repeat_interleave(each)

        best = whole = divided(x.abs().amax(-1), self.code.top)
        least = ordered_sum(table.least(points, weight.reshape(points.shape), spread(whole)).reshape(*x.shape[:2], -1))
        reference = torch.maximum(least, ordered_sum((weight * x.abs()) * x.abs()) * SHARE)
        counts = torch.where(reference > NARROWEST, torch.full_like(reference, COUNTS * each) / reference, 0.0)
        counted = (weight * counts[..., None]).reshape(points.shape)
        worth = reference * (1.0 / (COUNTS * each))

        def error(steps: torch.Tensor) -> torch.Tensor:
            found = table.least_counts(points, counted, spread(steps))
            return ordered_sum(found.reshape(*steps.shape, -1)) * worth

        for level in self.levels:
            step = whole * level
            candidate = error(step)
            best = torch.where(candidate < least, step, best)
            least = torch.where(candidate < least, candidate, least)
        return best, error

    def _towards(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Magnitudes; where a sign has to be given up, the number of least weight * |x| is below zero."""
        magnitude = x.abs()
        if not self.code.even:
            return magnitude
        vectors = (len(x), -1, self.vector)
        cost = (weight * magnitude).reshape(vectors)
        least = torch.zeros_like(cost).scatter(-1, cost.argmin(-1, keepdim=True), 1.0)
        odd = torch.signbit(x).reshape(vectors).sum(-1, keepdim=True) % 2
        return torch.where((least * odd).reshape(x.shape) == 1, -magnitude, magnitude)

    def _scales(self, step: torch.Tensor, error: GroupError) -> Params:
        """D and scales for steps (rows, groups): odd numbers around each for two d, then d a little off."""
        groups = SPAN // self.length
        largest = step.reshape(len(step), -1, groups).amax(-1)
        d, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
        scale = torch.zeros_like(step)
        for units in UNITS:
            candidate = stored_half(divided(largest, units * self.unit))
            near, errors = self._rounded(step, self._unit_steps(candidate), error)
            total = ordered_sum(errors.reshape(*largest.shape, groups))
            better = total < least
            d, least = torch.where(better, candidate, d), torch.where(better, total, least)
            scale = torch.where(better.repeat_interleave(groups, 1), near, scale)
        start = d
        for nudge in NUDGES:
            candidate = stored_half(start * nudge)
            errors = error(self._unit_steps(candidate) * (2.0 * scale + 1.0))
            total = ordered_sum(errors.reshape(*largest.shape, groups))
            better = total < least
            d, least = torch.where(better, candidate, d), torch.where(better, total, least)
        return Params({"d": d, "scale": scale})

    def _rounded(self, step: torch.Tensor, unit: torch.Tensor, error: GroupError) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of three scales around each step, and its error, (rows, groups)."""
        rounded = ((step * inverse(unit) - 1.0) * 0.5).round()
        scale, least = torch.zeros_like(step), torch.full_like(step, torch.inf)
        for off in (-1.0, 0.0, 1.0):
            near = (rounded + off).clamp(0.0, TOP_SCALE)
            candidate = error(unit * (2.0 * near + 1.0))
            scale = torch.where(candidate < least, near, scale)
            least = torch.where(candidate < least, candidate, least)
        return scale, least

    def _unit_steps(self, d: torch.Tensor) -> torch.Tensor:
        """The step of scale 0 of each group, (rows, groups), from d (rows, spans); exact."""
        return (self.unit * d).repeat_interleave(SPAN // self.length, 1)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> LatticeGrid:
        """What columns `cols`, whole vectors, can become."""
        step = self._unit_steps(params["d"]) * (2.0 * params["scale"] + 1.0)
        chosen = torch.arange(step.shape[1] * self.length, device=step.device)[cols][:: self.vector]
        return LatticeGrid(self.code, step[:, chosen // self.length])

    def encode(self, w: torch.Tensor, params: Params, *, importance: torch.Tensor | None = None) -> torch.Tensor:
        """The codes (rows, vectors) of least error, in the weighting of `fit`."""
        weight = self._own_weights(w) if importance is None else importance.expand_as(w)
        return self.grid(params, slice(None)).nearest(w, weight)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        rows = len(codes)
        points, signs = self.code.split(codes)
        fields = {"point": points.flatten(1), "sign": signs, "scale": params["scale"].long()}
        d = params["d"].half().cpu().numpy()[..., None]
        spans = {name: numbers.reshape(*d.shape[:2], -1).cpu().numpy() for name, numbers in fields.items()}
        bits = np.packbits(to_bits(self.bits_of_span, spans), axis=-1, bitorder="little")
        return np.concatenate([d.view(np.uint8), bits], axis=-1).reshape(rows, -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, vectors) int32 and the parameters of `fit`."""
        span = np.ascontiguousarray(packed).reshape(len(packed), -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., :2]).view(np.float16).astype(np.float32)[..., 0]
        fields = from_bits(self.bits_of_span, np.unpackbits(span[..., 2:], axis=-1, bitorder="little"))
        point, sign, scale = (
            torch.from_numpy(fields[name].reshape(len(packed), -1)) for name in ("point", "sign", "scale")
        )
        sign = self.code.with_last_sign(sign) if self.code.even else sign
        codes = self.code.join(point.reshape(len(packed), -1, self.code.parts), sign)
        return codes, Params({"d": torch.from_numpy(d), "scale": scale.float()})


def _mean_square(w: torch.Tensor) -> torch.Tensor:
    """The mean square of each span for each of its numbers, (rows, cols): summed over sixteen lanes, in their order."""
    lanes = (w * w).reshape(len(w), -1, SPAN // 16, 16).transpose(2, 3)
    return (ordered_sum(ordered_sum(lanes)) * (1.0 / SPAN)).repeat_interleave(SPAN, 1)
