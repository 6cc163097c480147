"""Floating-point numbers of eight bits and fewer, and powers of two as scales: what codes mean, and the nearest code.

Every step is exact or one IEEE single-precision operation, so that native/include/fewbits/minifloat.h finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ldexp
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

_FRACTION_BITS, _BIAS = 23, 127
"""Of binary32."""


@dataclass(frozen=True)
class MiniFloat:
    """A sign, `exponent_bits` and `fraction_bits`; subnormal numbers as in IEEE 754, `top` the last finite code.

    Codes above `top` are NaN, but for the first one where the type has an `infinity`. Rounding is to nearest even;
    magnitudes beyond `largest`, infinity too, become `largest`. NaN becomes the type's NaN, where it has one, else
    `largest`.

    >>> import torch
    >>> E2M1.decode(E2M1.encode(torch.tensor([0.3, -2.5, 5.0, 100.0])))
    tensor([ 0.5000, -2.0000,  4.0000,  6.0000])
    """

    name: str
    exponent_bits: int
    fraction_bits: int
    bias: int
    top: int
    infinity: bool = False

    @property
    def bits(self) -> int:
        """Of a code, its sign included."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def lowest(self) -> int:
        """The exponent of the smallest normal number."""
        return 1 - self.bias

    def number(self, code: int) -> float:
        """What `code` means."""
        sign, magnitude = -1.0 if code >> (self.bits - 1) else 1.0, code & (2 ** (self.bits - 1) - 1)
        if magnitude > self.top:
            return sign * float("inf" if self.infinity and magnitude == self.top + 1 else "nan")
        exponent, fraction = magnitude >> self.fraction_bits, magnitude & (2**self.fraction_bits - 1)
        steps = fraction + (2**self.fraction_bits if exponent else 0)
        return sign * ldexp(steps, max(exponent, 1) - self.bias - self.fraction_bits)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return self.number(self.top)

    @property
    def nan(self) -> int | None:
        """The code that NaN is stored as."""
        last = int(2 ** (self.bits - 1)) - 1
        return last if last > self.top else None

    def numbers(self) -> torch.Tensor:
        """What every code means, in the order of the codes, float32."""
        return torch.tensor([self.number(code) for code in range(2**self.bits)])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 numbers of `codes`."""
        return _numbers(self).to(codes.device)[codes.long()]

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The numbers nearest to float32 `x`, which is not NaN: what `encode` finds, as numbers.

        Added to 1.5 * 2^23 of its steps a magnitude is rounded to whole steps, to nearest even, by the addition.
        """
        magnitude = x.abs().clamp(max=self.largest)
        power = (magnitude.view(torch.int32) & 0x7F800000).view(torch.float32).clamp(min=2.0**self.lowest)
        magic = power * (1.5 * 2.0 ** (_FRACTION_BITS - self.fraction_bits))
        return ((magnitude + magic) - magic).copysign(x)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The uint8 codes nearest to float32 `x`; the sign of zero is kept."""
        magnitude = torch.where(x.isnan(), torch.full_like(x, self.largest), x.abs().clamp(max=self.largest))
        exponent = ((magnitude.view(torch.int32) >> _FRACTION_BITS) - _BIAS).clamp(min=self.lowest)
        steps = (magnitude * power_of_two(self.fraction_bits - exponent)).round().int()
        # Rounded up to a power of two, the steps carry into the exponent.
        codes = ((exponent - self.lowest) << self.fraction_bits) + steps
        if self.nan is not None:
            codes = torch.where(x.isnan(), torch.full_like(codes, self.nan), codes)
        return (codes | x.signbit().int() << (self.bits - 1)).to(torch.uint8)


@cache
def _numbers(kind: MiniFloat) -> torch.Tensor:
    return kind.numbers()


E2M1 = MiniFloat("E2M1", 2, 1, 1, 0x07)
E2M3 = MiniFloat("E2M3", 2, 3, 1, 0x1F)
E3M2 = MiniFloat("E3M2", 3, 2, 3, 0x1F)
E4M3 = MiniFloat("E4M3", 4, 3, 7, 0x7E)
E5M2 = MiniFloat("E5M2", 5, 2, 15, 0x7B, infinity=True)

E8M0_BIAS = 127
"""An E8M0 code c means 2^(c - 127); 255 means NaN in the MX formats."""


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent exactly, float32, for int32 exponents of -149 to 127."""
    normal = (exponent + _BIAS).clamp(min=1) << _FRACTION_BITS
    subnormal = torch.ones_like(exponent) << (exponent + 149).clamp(0, 22)
    return torch.where(exponent >= -126, normal, subnormal).view(torch.float32)


def exponent_of(x: torch.Tensor) -> torch.Tensor:
    """floor(log2 |x|), int32 and exact; -150 where x is 0."""
    _, above = torch.frexp(x)
    return torch.where(x != 0, above.int() - 1, torch.full_like(above, -150).int())
