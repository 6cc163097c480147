"""The stored bits of one code, in the pieces that a person tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.formats.guide import Part
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def pattern(code: torch.Tensor) -> int:
    """The bits of a single code as a number, whether codes are small integers or floats of their own type.

    >>> import torch
    >>> pattern(torch.tensor(5, dtype=torch.uint8)), hex(pattern(torch.tensor(1.0, dtype=torch.float16)))
    (5, '0x3c00')
    """
    raw = code.reshape(1).contiguous().view(torch.uint8).numpy()
    return int.from_bytes(raw.tobytes(), "little")


def pieces(bits: int, width: int, element: tuple[int, int] | None) -> tuple[tuple[str, str], ...]:
    """(name, binary digits), the highest bit first: sign, exponent and mantissa of a small float, or the whole code.

    >>> pieces(0x3C00, 16, (5, 10))
    (('sign', '0'), ('exponent', '01111'), ('mantissa', '0000000000'))
    >>> pieces(5, 4, None)
    (('code', '0101'),)
    """
    digits = f"{bits:0{width}b}"
    if element is None:
        return (("code", digits),)
    exponent, mantissa = element
    sign = width - exponent - mantissa
    cuts = [("sign", 0, sign), ("exponent", sign, sign + exponent), ("mantissa", sign + exponent, width)]
    return tuple((name, digits[start:stop]) for name, start, stop in cuts if stop > start)


def code_width(parts: tuple[Part, ...], span: int, largest: int) -> int:
    """Bits of a code: those that the parts of a span hold for each of its columns, or what the largest code needs.

    >>> code_width((Part("d", 1, 16, ""), Part("fifth bits", 32, 1, ""), Part("low bits", 32, 4, "")), 32, 31)
    5
    """
    stated = sum(part.bits for part in parts if part.count == span)
    return max(stated, largest.bit_length(), 1)
