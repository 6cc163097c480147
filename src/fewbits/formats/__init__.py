"""The number formats, by name; adding one is a file and a line here."""

from __future__ import annotations

from fewbits.errors import FormatError
from fewbits.formats.base import Format, Grid, Params, bits, bits_per_weight, row_bytes
from fewbits.formats.description import Description
from fewbits.formats.description import describe as _describe
from fewbits.formats.floats import BF16, F16, F32
from fewbits.formats.kquant import Q4_K, Q5_K
from fewbits.formats.kquant_symmetric import Q6_K
from fewbits.formats.legacy import Q4_0, Q5_0, Q8_0
from fewbits.formats.legacy_affine import Q5_1
from fewbits.registry import Registry

__all__ = [
    "FORMATS",
    "Description",
    "Format",
    "Grid",
    "Params",
    "bits",
    "bits_per_weight",
    "describe",
    "get",
    "row_bytes",
]

FORMATS: Registry[Format] = Registry("format", FormatError)
for _format in (F32, F16, BF16, Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K):
    FORMATS.add(_format.name, _format)


def get(name: str) -> Format:
    """The format called `name`; raises FormatError, naming the nearest known names.

    >>> get("Q4_K").span_bytes
    144
    """
    return FORMATS.get(name)


def describe(name: str) -> Description:
    """Everything known about the format called `name`, in any case: its numbers, its bytes, its use.

    >>> print(describe("q4_k").when)
    The usual choice for models of 7 billion parameters and more.
    """
    known = {n.upper(): n for n in FORMATS}
    return _describe(get(known.get(name.upper(), name)))
