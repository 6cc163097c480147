"""Small floats with scales that are floats themselves: FP8 per tensor, row and tile, FP6 and FP4 per row and group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Native, Params
from fewbits.formats.exact import SMALLEST_NORMAL, divided, inverse, lane_sum, stored_as
from fewbits.formats.grids import ElementGrid
from fewbits.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, MiniFloat
from fewbits.formats.names import Words
from fewbits.formats.scaled import LARGEST_SCALE, NUMBER_WORDS, SMALLEST_SCALE, Scaled
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"fp\d+(_.*)?"
LISTED = (
    "fp8_e4m3_tensor",
    "fp8_e4m3_row",
    "fp8_e4m3_tile128",
    "fp8_e5m2_tensor",
    "fp8_e5m2_row",
    "fp8_e4m3_g128_bf16",
    "fp6_e3m2_row",
    "fp6_e2m3_g32_bf16",
    "fp4_e2m1_row",
    "fp4_e2m1_g32_f16",
    "fp4_e2m1_g16",
)
ELEMENTS = {
    "fp8": {"e4m3": E4M3, "e5m2": E5M2},
    "fp6": {"e3m2": E3M2, "e2m3": E2M3},
    "fp4": {"e2m1": E2M1},
}
LEVELS = {
    "E4M3": (448.0, 256.0, 288.0, 320.0, 352.0, 384.0, 416.0),
    "E5M2": (57344.0, 32768.0, 40960.0, 49152.0, 61440.0),
    "E3M2": (28.0, 16.0, 20.0, 24.0, 30.0),
    "E2M3": (7.5, 5.0, 5.5, 6.0, 6.5, 7.0),
    "E2M1": (6.0, 4.0, 4.5, 5.5, 6.5, 7.0),
}
"""Numbers that the largest magnitude of a scope may fall on; the first one is the usual choice."""


@dataclass(frozen=True, kw_only=True)
class ScaledFloat(Scaled):
    """w = scale * element: small floats rounded to nearest even, saturating; one floating-point scale per scope.

    The usual scale takes the largest magnitude to the element's largest number. Where a scale serves less than the
    tensor, others that take it to `LEVELS` are tried too, each refitted by least squares to the codes that it gives;
    the one that removes most of the weighted energy wins. No magnitude is cut off by more than half a step.

    >>> parse("fp8_e4m3_row").bits(4, 100)
    3328
    """

    element: MiniFloat
    source: str

    def __post_init__(self) -> None:
        assert self.code_bits == self.element.bits, "a code and nothing else per element"

    @property
    def name(self) -> str:
        """Kind, element, scope, and the type of scales other than of 32 bits."""
        words = [self.guide, self.scope.word]
        return "_".join(words + ([] if self.scale == "f32" else [self.scale]))

    @property
    def guide(self) -> str:
        """The entry of the guide: what codes stand for."""
        return f"fp{self.code_bits}_{self.element.name.lower()}"

    @property
    def furthest(self) -> float:
        """What the largest magnitude of a scope falls on, in scales, where a scale is found while a model runs."""
        return self.element.largest

    @property
    def native(self) -> Native:
        """The native codec."""
        return Native(self.guide, self.rows, self.span, self.scale)

    @property
    def equation(self) -> str:
        """What a code means."""
        return f"w = scale * {self.element.name}[code]"

    @property
    def largest(self) -> float:
        """What the largest scale takes without a product that overflows."""
        return min(LARGEST_SCALE[self.scale] * self.element.largest, LARGEST_SCALE["f32"])

    @property
    def error_bound(self) -> float:
        """Half a step of the fraction, and what the rounding of the scale adds to it."""
        return 2.0 ** -(self.element.fraction_bits + 1) * 1.01

    @property
    def error_floor(self) -> float:
        """What the resolution of small scales leaves, times the largest element."""
        return SMALLEST_SCALE[self.scale] * self.reach

    @property
    def reach(self) -> float:
        """The largest number and half a step: what is cut off at most, in scales."""
        below = self.element.number(self.element.top - 1)
        return self.element.largest + (self.element.largest - below) / 2

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """The scale of the whole tensor, where there is one: its largest magnitude to the largest number."""
        if self.rows != 0:
            return None
        largest = torch.stack([slab.abs().amax() for slab in slabs]).amax().reshape(1, 1)
        return self.shared(scale=self._stored(divided(largest, self.element.largest)))

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale of each scope, searched for or at given codes by least squares."""
        if codes is None and self.rows == 0:
            return like or self.prepare([w]) or Params({})
        x = self.grouped(w)
        weight = torch.ones_like(x) if importance is None else self.grouped(importance.expand_as(w))
        size = x.abs().amax(-1).clamp(min=SMALLEST_NORMAL * self.element.largest)
        y = x * inverse(size)[..., None]  # in -1 .. 1, where no sum overflows
        if codes is None:
            return self.shared(scale=self._stored(self._best(y, weight) * size))
        v = self.grouped(self.element.decode(codes))
        yv, vv = lane_sum(torch.stack([(weight * v) * y, (weight * v) * v]))
        return self.shared(scale=stored_as(yv * inverse(vv) * size, self.scale))

    def _best(self, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The scale that removes most energy of y (..., n)."""
        best, scale = torch.zeros_like(y[..., 0]), torch.full_like(y[..., 0], 1.0 / self.element.largest)
        for level in LEVELS[self.element.name]:
            v = self.element.rounded(y * level)
            yv, vv = lane_sum(torch.stack([(weight * v) * y, (weight * v) * v]))
            candidate = (yv * inverse(vv)).clamp(min=1.0 / self.reach)
            gain = candidate * ((yv + yv) - candidate * vv)
            scale = torch.where(gain > best, candidate, scale)
            best = torch.where(gain > best, gain, best)
        return scale

    def _stored(self, scale: torch.Tensor) -> torch.Tensor:
        """As it is stored; never so small that its inverse is infinite."""
        return stored_as(scale.clamp(min=SMALLEST_NORMAL), self.scale)

    def grouped(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) as (lines, scales of a line, numbers that share one); rows that lack in a tile are zeros."""
        if self.rows <= 1:
            return super().grouped(w)
        lines, span = self.lines(len(w)), self.span
        whole = torch.nn.functional.pad(w, (0, 0, 0, lines * self.rows - len(w)))
        return whole.reshape(lines, self.rows, -1, span).transpose(1, 2).reshape(lines, -1, self.rows * span)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> ElementGrid:
        """What columns `cols` can become."""
        return ElementGrid(self.element, self.spread(params["scale"], cols), self.rows)


_SOURCES = {
    "fp8": "OCP 8-bit Floating Point Specification (OFP8) 1.0; the tiles are DeepSeek-V3's, arXiv:2412.19437, 3.3.2",
    "fp6": "OCP Microscaling Formats (MX) 1.0, 5.3.2, with floating-point scales",
    "fp4": "OCP Microscaling Formats (MX) 1.0, 5.3.3, with floating-point scales",
}
_SCOPES = {"fp8": ("tensor", "row", "g", "tile"), "fp6": ("row", "g"), "fp4": ("row", "g")}


def parse(name: str) -> ScaledFloat:
    """The format that `name` states; raises FormatError saying which word is wrong, and what is near.

    >>> parse("fp8_e4m3_tile128").equation
    'w = scale * E4M3[code]'
    >>> parse("fp7_e3m3_row")
    Traceback (most recent call last):
    fewbits.errors.FormatError: unknown format 'fp7_e3m3_row': floats have 8, 6 or 4 bits; did you mean 'fp8_e4m3_row' \
or 'fp6_e3m2_row'?
    """
    words = Words(name)
    kind = words.kind()
    if kind not in ELEMENTS:
        raise words.refuse("floats have 8, 6 or 4 bits", "fp8_e4m3_row", "fp6_e3m2_row")
    element = words.one_of(ELEMENTS[kind], ELEMENTS[kind]["e2m1"] if kind == "fp4" else None)
    scope = words.scope(_SCOPES[kind])
    scale = words.one_of(NUMBER_WORDS, "f32")
    words.end()
    return ScaledFloat(code_bits=element.bits, scope=scope, scale=scale, element=element, source=_SOURCES[kind])
