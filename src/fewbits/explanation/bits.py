"""The stored bits of one code, in the pieces that a person tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.formats import Format
from fewbits.formats.description import COLS, ROWS, describe, guide_of
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


def code_width(format: Format, code: torch.Tensor) -> int:
    """Bits of a code: of its type, as the format or the parts of its span state them, or what the largest code needs.

    >>> import torch
    >>> from fewbits import formats
    >>> zeros = torch.zeros(1, 32, dtype=torch.uint8)
    >>> code_width(formats.get("Q5_0"), zeros), code_width(formats.get("F16"), zeros.half())
    (5, 16)
    """
    if code.dtype != torch.uint8:
        return 8 * code.element_size()
    described = describe(format)
    fields = {field.name: field for field in described.fields}
    if "codes" in fields:
        return 8 * fields["codes"].size // (ROWS * (COLS // format.span * format.span if format.span else COLS))
    stated = sum(part.bits for part in described.parts if part.count == format.span)
    return stated or max(1, int(code.max()).bit_length())


def as_stored(format: Format, bits: int, width: int) -> tuple[int, int]:
    """The bits as they lie on disk, and the code that the equation speaks of: codes in memory count from 0.

    Signed formats store two's complement; those whose equation subtracts no middle speak of the signed code, too.
    """
    turned = bits ^ 1 << (width - 1)
    if guide_of(format).signed:
        return turned, bits - (1 << (width - 1))
    return (turned, bits) if getattr(format, "signed", False) else (bits, bits)
