"""GGUF's formats of less than two bits, IQ1_S and IQ1_M: lattice vectors of eight, shifted, under scales of two levels.

Fitting lets every number take the nearest of the three levels, on the lattice or not, for several steps per group and
for d and the scales; then the lattice decides about shifts and points. The native kernels do the same in the same
order, and give the same bits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import by_spread, divided, inverse, ordered_sum, stored_half
from fewbits.formats.iq1_lattice import COUNT, DELTA, WIDTH, nearest, ternary_points
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 256
TOP_SCALE = 7.0
"""The largest stored scale s, which means a step of (2 s + 1) * d."""

LEVELS = (0.421875, 0.5, 0.578125, 0.65625, 0.75, 0.859375, 1.0, 1.15625)
"""Steps that are tried, over the largest number of a group; found by trial, exact in binary."""

UNITS = (15.0, 14.0, 16.0)
"""How many units of d the span's largest step may be taken for."""

NARROWEST = 1e-30
"""A group whose largest magnitude is not above this counts as zero: inverses stay finite."""

Moments = tuple["torch.Tensor", "torch.Tensor"]
"""Of groups: the sums of weight * number * x, and of weight * number^2, of the numbers that x becomes."""


@dataclass(frozen=True)
class ShiftedLattice:
    """step * (point + shift): `step` and `shift` are (rows, vectors); without `shift`, the code says which it is.

    A code is the number of a point, plus COUNT where the shift is downwards and the code says so.
    """

    step: torch.Tensor
    shift: torch.Tensor | None
    vector: int = WIDTH

    def nearest(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (rows, vectors) int32 of least squared error in `weight` (rows, cols), evenly without."""
        weight = torch.ones_like(x) if weight is None else weight
        vectors, weights = (t.reshape(-1, WIDTH) for t in (x, weight))
        step = self.step.flatten()
        if self.shift is not None:
            index, _ = nearest(vectors, weights, step, self.shift.flatten())
        else:
            up, error_up = nearest(vectors, weights, step, torch.full_like(step, DELTA))
            down, error_down = nearest(vectors, weights, step, torch.full_like(step, -DELTA))
            index = torch.where(error_up <= error_down, up, down + COUNT)
        return index.reshape(self.step.shape).to(torch.int32)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        shift = torch.where(codes < COUNT, DELTA, -DELTA) if self.shift is None else self.shift
        numbers = ternary_points(codes.device).numbers[codes.long() % COUNT] + shift[..., None]
        return (self.step[..., None] * numbers).flatten(1)

    def columns(self, start: int, stop: int) -> ShiftedLattice:
        """What columns `start` to `stop` of these, whole vectors, can become."""
        some = slice(start // self.vector, stop // self.vector)
        return ShiftedLattice(self.step[:, some], None if self.shift is None else self.shift[:, some])

    def alternatives(self, found: int) -> torch.Tensor:
        """Every code (codes,) that a vector can have."""
        count = COUNT if self.shift is not None else 2 * COUNT
        return torch.arange(count, dtype=torch.int32, device=self.step.device)

    def examples(self) -> torch.Tensor:
        """Codes (rows, vectors) that differ from place to place."""
        every = self.alternatives(0)
        place = torch.arange(self.step.numel(), device=self.step.device).reshape(self.step.shape)
        return every[(place * 7919 + 13) % len(every)]


@dataclass(frozen=True)
class Ternary(GridCodec):
    """w = d * (2 * scale[g] + 1) * (point[v] + shift): what IQ1_S and IQ1_M share.

    Groups of `length` columns have a scale 0 .. 7, and `shared` columns a shift of an eighth up or down.
    """

    name: str
    length: int
    shared: int
    span_bytes: int
    layout: str
    source: str
    equation: str
    error_bound: float = 1.25
    span: int = SPAN
    rows: int = 1
    vector: int = WIDTH

    def __post_init__(self) -> None:
        bits = 16 + SPAN // WIDTH * 11 + SPAN // self.length * 3 + SPAN // self.shared
        assert 8 * self.span_bytes == bits, "d, points, scales and shifts, nothing else"

    @property
    def largest(self) -> float:
        """The largest d and scale times a number of 1."""
        return 65504.0 * 15

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest scale and number."""
        return 2.0**-25 * 15 * (1 + DELTA)

    @abstractmethod
    def _own_weights(self, w: torch.Tensor) -> torch.Tensor:
        """Weights (rows, cols) without importance."""

    def weights(self, w: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """As llama.cpp weighs the format: importance * sqrt(2 * the span's mean square + w^2)."""
        return by_spread(w, importance, SPAN)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The parameters d (rows, spans), scale (rows, groups) and, where groups have one, shift (rows, groups).

        Searched for, or fitted to given codes (rows, vectors).
        """
        weight = self._own_weights(w) if importance is None else importance.expand_as(w)
        x, weight = (t.reshape(len(w), -1, self.length) for t in (w, weight))
        if codes is None:
            moments = self._moments_of_nearest(x, weight)
            return self._with_shift(x, weight, self._scales(self._best_step(x, moments), moments))
        return self._at_codes(x, weight, codes)

    def _moments_of_nearest(self, x: torch.Tensor, weight: torch.Tensor) -> Callable[[torch.Tensor], Moments]:
        """The moments of groups (rows, groups) under steps, each number at its nearest level and shift at its best."""
        parts = (*x.shape[:2], -1, self.shared)
        x, weight = x.reshape(parts), weight.reshape(parts)

        def moments(step: torch.Tensor) -> Moments:
            scaled, found = x * inverse(step)[..., None, None], []
            for shift in (DELTA, -DELTA):
                numbers = (scaled - shift).round().clamp(-1, 1) + shift
                weighted = weight * numbers
                found.append((ordered_sum(weighted * x), ordered_sum(weighted * numbers)))
            (slx, sll), (slx_down, sll_down) = found
            up = _error(step[..., None], slx, sll) <= _error(step[..., None], slx_down, sll_down)
            return ordered_sum(torch.where(up, slx, slx_down)), ordered_sum(torch.where(up, sll, sll_down))

        return moments

    def _best_step(self, x: torch.Tensor, moments: Callable[[torch.Tensor], Moments]) -> torch.Tensor:
        """The step (rows, groups) that removes most of the weighted energy, of one refitted candidate per level."""
        largest = x.abs().amax(-1)
        largest = torch.where(largest > NARROWEST, largest, torch.zeros_like(largest))
        best, step = torch.zeros_like(largest), torch.zeros_like(largest)
        for level in LEVELS:
            slx, sll = moments(largest * level)
            candidate = slx * inverse(sll)
            gain = candidate * slx
            step = torch.where(gain > best, candidate, step)
            best = torch.where(gain > best, gain, best)
        return step.clamp(min=0.0)

    def _scales(self, step: torch.Tensor, moments: Callable[[torch.Tensor], Moments]) -> Params:
        """D and scales for steps (rows, groups): of a few d the best, with the best of three scales at each step."""
        groups = SPAN // self.length
        largest = step.reshape(len(step), -1, groups).amax(-1)
        d, least, scale = torch.zeros_like(largest), torch.full_like(largest, torch.inf), torch.zeros_like(step)
        for units in UNITS:
            candidate = stored_half(divided(largest, units))
            near, errors = self._rounded(step, candidate.repeat_interleave(groups, 1), moments)
            total = ordered_sum(errors.reshape(*largest.shape, groups))
            better = total < least
            d, least = torch.where(better, candidate, d), torch.where(better, total, least)
            scale = torch.where(better.repeat_interleave(groups, 1), near, scale)
        return Params({"d": d, "scale": scale})

    def _rounded(
        self, step: torch.Tensor, d: torch.Tensor, moments: Callable[[torch.Tensor], Moments]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of three scales around each step, and its error, (rows, groups)."""
        rounded = ((step * inverse(d) - 1.0) * 0.5).round()
        scale, least = torch.zeros_like(step), torch.full_like(step, torch.inf)
        for off in (-1.0, 0.0, 1.0):
            near = (rounded + off).clamp(0.0, TOP_SCALE)
            stored = d * (2.0 * near + 1.0)
            candidate = _error(stored, *moments(stored))
            scale = torch.where(candidate < least, near, scale)
            least = torch.where(candidate < least, candidate, least)
        return scale, least

    def _with_shift(self, x: torch.Tensor, weight: torch.Tensor, params: Params) -> Params:
        """The parameters with the shift that each group's points are nearer under, where groups have one."""
        if self.shared == WIDTH:
            return params
        step = self._steps(params)
        vectors, weights = (t.reshape(-1, WIDTH) for t in (x, weight))
        steps = step.flatten().repeat_interleave(self.length // WIDTH)
        up, down = (
            ordered_sum(nearest(vectors, weights, steps, torch.full_like(steps, shift))[1].reshape(*step.shape, -1))
            for shift in (DELTA, -DELTA)
        )
        return Params({**params.arrays, "shift": torch.where(up <= down, DELTA, -DELTA)})

    def _at_codes(self, x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor) -> Params:
        """The parameters under which given codes (rows, vectors) are nearest."""
        points = ternary_points(codes.device).numbers[codes.long() % COUNT]
        own = torch.where(codes < COUNT, DELTA, -DELTA)[..., None]
        found = []
        for shift in (own,) if self.shared == WIDTH else (DELTA, -DELTA):
            numbers = (points + shift).reshape(x.shape)
            weighted = weight * numbers
            found.append((ordered_sum(weighted * x), ordered_sum(weighted * numbers)))
        slx, sll = found[0]
        if self.shared == WIDTH:
            return self._scales((slx * inverse(sll)).clamp(min=0.0), lambda _: (slx, sll))
        slx_down, sll_down = found[1]
        up = slx.clamp(min=0.0).square() * sll_down >= slx_down.clamp(min=0.0).square() * sll
        slx, sll = torch.where(up, slx, slx_down), torch.where(up, sll, sll_down)
        params = self._scales((slx * inverse(sll)).clamp(min=0.0), lambda _: (slx, sll))
        return Params({**params.arrays, "shift": torch.where(up, DELTA, -DELTA)})

    def _steps(self, params: Params) -> torch.Tensor:
        """The step of each group, (rows, groups)."""
        return params["d"].repeat_interleave(SPAN // self.length, 1) * (2.0 * params["scale"] + 1.0)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> ShiftedLattice:
        """What columns `cols`, whole vectors, can become."""
        step = self._steps(params)
        chosen = torch.arange(step.shape[1] * self.length, device=step.device)[cols][::WIDTH] // self.length
        return ShiftedLattice(step[:, chosen], params["shift"][:, chosen] if "shift" in params.arrays else None)

    def encode(self, w: torch.Tensor, params: Params, *, importance: torch.Tensor | None = None) -> torch.Tensor:
        """The codes (rows, vectors) of least error, in the weighting of `fit`."""
        weight = self._own_weights(w) if importance is None else importance.expand_as(w)
        return self.grid(params, slice(None)).nearest(w, weight)

    @abstractmethod
    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""

    @abstractmethod
    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, vectors) int32 and the parameters of `fit`."""


def _error(step: torch.Tensor, slx: torch.Tensor, sll: torch.Tensor) -> torch.Tensor:
    """The error at a step, up to the energy of the numbers."""
    return step * (step * sll - 2.0 * slx)


@dataclass(frozen=True)
class TernaryS(Ternary):
    """Groups of 32 with one scale and one shift. Without importance weighted by sqrt(2 * mean square + w^2)."""

    def _own_weights(self, w: torch.Tensor) -> torch.Tensor:
        return by_spread(w, torch.ones_like(w), SPAN)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        d = params["d"].half().cpu().numpy()[..., None]
        points = codes.reshape(*d.shape[:2], 8, 4).cpu().numpy().astype(np.uint16)
        scale, shift = (params[n].reshape(d.shape[0], -1, 8).cpu().numpy() for n in ("scale", "shift"))
        upper = ((points >> 8) << (3 * np.arange(4)).astype(np.uint16)).sum(-1, dtype=np.uint16)
        upper |= scale.astype(np.uint16) << np.uint16(12) | (shift < 0).astype(np.uint16) << np.uint16(15)
        lower = points.astype(np.uint8).reshape(*d.shape[:2], -1)
        return np.concatenate([d.view(np.uint8), lower, upper.view(np.uint8)], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, vectors) int32 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        d = np.ascontiguousarray(span[..., :2]).view(np.float16).astype(np.float32)[..., 0]
        upper = np.ascontiguousarray(span[..., 34:]).view(np.uint16)
        high = upper[..., None] >> (3 * np.arange(4)).astype(np.uint16) & 7
        codes = span[..., 2:34].reshape(rows, -1, 8, 4) | high.astype(np.int32) << 8
        scale = (upper >> 12 & 7).astype(np.float32).reshape(rows, -1)
        shift = np.where(upper >> 15, -DELTA, DELTA).astype(np.float32).reshape(rows, -1)
        arrays = {"d": d, "scale": scale, "shift": shift}
        params = Params({name: torch.from_numpy(array) for name, array in arrays.items()})
        return torch.from_numpy(codes.reshape(rows, -1).astype(np.int32)), params


@dataclass(frozen=True)
class TernaryM(Ternary):
    """Groups of 16 with a scale, vectors with a shift. Without importance weighted by w^2 + the group's mean square."""

    def _own_weights(self, w: torch.Tensor) -> torch.Tensor:
        # ggml weighs by w^2 alone; as in Q6_K half of the weight is even.
        x = w.reshape(len(w), -1, self.length)
        return (x * x + (ordered_sum(x * x) * (1.0 / self.length))[..., None]).reshape(w.shape)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        spans = params["d"].shape
        code = codes.reshape(*spans, -1).cpu().numpy().astype(np.uint16)
        upper = (code >> 8).astype(np.uint8)
        halves = upper[..., 0::2] | upper[..., 1::2] << 4
        scale = params["scale"].reshape(*spans, 4, 4).cpu().numpy().astype(np.uint16)
        words = (scale << (3 * np.arange(4)).astype(np.uint16)).sum(-1, dtype=np.uint16)
        d = params["d"].half().cpu().numpy().view(np.uint16)[..., None]
        words |= (d >> (4 * np.arange(4)).astype(np.uint16) & 15) << np.uint16(12)
        return np.concatenate([code.astype(np.uint8), halves, words.view(np.uint8)], axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, vectors) int32 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        halves = np.stack([span[..., 32:48] & 15, span[..., 32:48] >> 4], axis=-1).reshape(*span.shape[:2], -1)
        codes = span[..., :32] | halves.astype(np.int32) << 8
        words = np.ascontiguousarray(span[..., 48:]).view(np.uint16)
        d = ((words >> 12) << (4 * np.arange(4)).astype(np.uint16)).sum(-1, dtype=np.uint16)
        scale = (words[..., None] >> (3 * np.arange(4)).astype(np.uint16) & 7).astype(np.float32).reshape(rows, -1)
        params = {"d": torch.from_numpy(d.view(np.float16).astype(np.float32)), "scale": torch.from_numpy(scale)}
        return torch.from_numpy(codes.reshape(rows, -1).astype(np.int32)), Params(params)


_SOURCE = "GGUF specification, quantization type {}; the points from the gguf package"
IQ1_S = TernaryS(
    name="IQ1_S",
    length=32,
    shared=32,
    span_bytes=50,
    layout="d: binary16; 32 bytes: low 8 bits of the points; 8 numbers of 16 bits: for each group the upper 3 bits of "
    "4 points, 3 bits of scale, 1 bit where the shift is downwards",
    source=_SOURCE.format("IQ1_S"),
    equation="w = d * (2 * scale[g] + 1) * (point[v] + shift[g])",
)
IQ1_M = TernaryM(
    name="IQ1_M",
    length=16,
    shared=8,
    span_bytes=56,
    layout="32 bytes: low 8 bits of the points; 16 bytes: for each vector the upper 3 bits and 1 bit where its shift "
    "is downwards; 4 numbers of 16 bits: 4 scales of 3 bits, and above them 4 bits of the binary16 d",
    source=_SOURCE.format("IQ1_M"),
    equation="w = d * (2 * scale[g] + 1) * (point[v] + shift[v])",
)
