"""OCP's microscaling formats: a power of two per 32 columns."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from fewbits.errors import FormatError
from fewbits.formats.base import Native, Params
from fewbits.formats.exact import evenly_or, inverse, lane_sum
from fewbits.formats.grids import ElementGrid
from fewbits.formats.microscaled import Microscaled
from fewbits.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0_BIAS, MiniFloat, exponent_of, power_of_two
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

E8M0_NAN = 255
_OCP = "OCP Microscaling Formats (MX) 1.0, "


@dataclass(frozen=True)
class Sixtyfourths:
    """MXINT8's element: a whole number of 64ths in two's complement, -127 to 127; -128 is read but never chosen.

    >>> import torch
    >>> INT8.decode(INT8.encode(torch.tensor([0.01, -0.5, 3.0])))
    tensor([ 0.0156, -0.5000,  1.9844])
    """

    name: str = "INT8"
    bits: int = 8
    largest: float = 127 / 64

    def numbers(self) -> torch.Tensor:
        """What every code means, in the order of the codes, float32."""
        return torch.arange(256).to(torch.uint8).view(torch.int8).float() * 2.0**-6

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The uint8 codes nearest to `x`, ties to the even one, saturating; NaN becomes 0."""
        return (self.rounded(x.nan_to_num(0.0)) * 2.0**6).to(torch.int8).view(torch.uint8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers of `codes`."""
        return codes.view(torch.int8).float() * 2.0**-6

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers of the codes nearest to `x`."""
        return (x * 2.0**6).round().clamp(-127, 127) * 2.0**-6


INT8 = Sixtyfourths()


@dataclass(frozen=True, kw_only=True)
class MX(Microscaled):
    """w = 2^(scale - 127) * element: 32 columns share a power of two, stored as E8M0; 255 means that all are NaN.

    OCP's rule takes the exponent of the largest magnitude less that of the element's largest number (`largest_power`),
    which cuts off what lies between that number and the next power of two. `shifts` beside it are tried too, and the
    one of least weighted squared error wins, OCP's where they are equal: any exponent is valid to readers.
    """

    element: MiniFloat | Sixtyfourths
    largest_power: int
    shifts: tuple[int, ...] = (0, 1)

    @property
    def equation(self) -> str:
        """What a code means."""
        return f"w = 2^(scale - 127) * {self.element.name}[code]"

    @property
    def layout(self) -> str:
        """The fields."""
        kind = "two's complement in 64ths" if self.element is INT8 else self.element.name
        return (
            f"codes: {self.element.bits} bits each ({kind}), the lowest bit of a row's byte 0 first; "
            f"scale: E8M0, one byte per {self.span} columns"
        )

    @property
    def native(self) -> Native:
        """The native codec."""
        return Native(self.name, self.rows, self.span, "e8m0")

    @property
    def largest(self) -> float:
        """Beyond this the largest power of two would be wanted."""
        return 2.0**126

    @property
    def error_floor(self) -> float:
        """The smallest power of two times half the smallest step."""
        return 2.0**-127

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The power of two (rows, groups) of each group: searched for, or the best one at given codes."""
        x = self.grouped(w)
        weight = evenly_or(importance, w, x)
        exponent = self._best(x, weight) if codes is None else self._at_codes(x, weight, self.grouped(codes))
        return Params({"scale": power_of_two(exponent)})

    def ocp_exponent(self, x: torch.Tensor) -> torch.Tensor:
        """The exponent of OCP's rule for groups x (..., n), int32 of -127 to 127."""
        return (exponent_of(x.abs().amax(-1)) - self.largest_power).clamp(-127, 127)

    def _best(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        usual = self.ocp_exponent(x)
        best, exponent = torch.full_like(x[..., 0], torch.inf), usual
        for shift in self.shifts:
            candidate = (usual + shift).clamp(-127, 127)
            x_small = x * power_of_two(-candidate)[..., None]
            r = (x_small - self.element.rounded(x_small)) * power_of_two(candidate - usual)[..., None]
            error = lane_sum((weight * r) * r)
            exponent = torch.where(error < best, candidate, exponent)
            best = torch.minimum(error, best)
        return exponent

    def _at_codes(self, x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The power of two on either side of the least-squares scale that is nearer in squared error."""
        usual, v = self.ocp_exponent(x), self.element.decode(codes)
        x_small = x * power_of_two(-usual)[..., None]
        xv, vv = lane_sum(torch.stack([(weight * v) * x_small, (weight * v) * v]))
        scale = (xv * inverse(vv)).clamp(min=2.0**-126)
        below = exponent_of(scale)
        nearer = below + (scale > 1.5 * power_of_two(below)).int()
        return torch.clamp(usual + nearer, -127, 127)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> ElementGrid:
        """What columns `cols` can become."""
        return ElementGrid(self.element, params["scale"].repeat_interleave(self.span, 1)[:, cols])

    def scale_bytes(self, params: Params) -> torch.Tensor:
        """E8M0 of powers of two."""
        scale = params["scale"]
        code = (exponent_of(scale) + E8M0_BIAS).clamp(0, 254)
        return torch.where(scale.isnan(), torch.full_like(code, E8M0_NAN), code).to(torch.uint8)

    def from_scale_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        """Powers of two, NaN of 255."""
        power = power_of_two(stored.int().clamp(max=254) - E8M0_BIAS)
        return torch.where(stored == E8M0_NAN, torch.full_like(power, torch.nan), power)


MXFP8_E4M3 = MX(name="mxfp8_e4m3", element=E4M3, largest_power=8, source=_OCP + "MXFP8 with E4M3", error_bound=0.126)
MXFP8_E5M2 = MX(name="mxfp8_e5m2", element=E5M2, largest_power=15, source=_OCP + "MXFP8 with E5M2", error_bound=0.126)
MXFP6_E3M2 = MX(name="mxfp6_e3m2", element=E3M2, largest_power=4, source=_OCP + "MXFP6 with E3M2", error_bound=0.126)
MXFP6_E2M3 = MX(name="mxfp6_e2m3", element=E2M3, largest_power=2, source=_OCP + "MXFP6 with E2M3", error_bound=0.0626)
MXFP4 = MX(name="mxfp4", element=E2M1, largest_power=2, source=_OCP + "MXFP4", error_bound=0.251)
MXINT8 = MX(name="mxint8", element=INT8, largest_power=0, shifts=(0, -1), source=_OCP + "MXINT8", error_bound=0.045)

MEMBERS = {f.name: f for f in (MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4, MXINT8)}
PATTERN = r"mx(fp|int)\d.*"
LISTED = tuple(MEMBERS)


def parse(name: str) -> MX:
    """The format called `name`; raises FormatError, naming what is near: no parameter of these formats is free.

    >>> parse("mxfp6_e2m3").bits(1, 32) / 32
    6.25
    """
    if name in MEMBERS:
        return MEMBERS[name]
    near = get_close_matches(name, MEMBERS, n=2, cutoff=0.4) or LISTED
    raise FormatError(f"unknown format {name!r}: OCP defines no such one; did you mean {' or '.join(map(repr, near))}?")
