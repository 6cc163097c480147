"""The number formats, by name; adding one is a file and a line here."""

from __future__ import annotations

from fewbits.errors import FormatError
from fewbits.formats import codebooks, fp8, integers, learned, mx, nvfp4, ternary
from fewbits.formats.base import (
    Fields,
    Format,
    Grid,
    Params,
    RowFormat,
    as_row_format,
    bits,
    bits_per_weight,
    fits,
    is_row_format,
    row_bytes,
)
from fewbits.formats.description import Description
from fewbits.formats.description import describe as _describe
from fewbits.formats.floats import BF16, F16, F32, F64
from fewbits.formats.gguf_ternary import TQ1_0, TQ2_0
from fewbits.formats.iq1 import IQ1_M, IQ1_S
from fewbits.formats.iq4 import IQ4_NL, IQ4_XS
from fewbits.formats.iquant import IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS
from fewbits.formats.kquant import Q4_K, Q5_K
from fewbits.formats.kquant_pairs import Q2_K, Q3_K
from fewbits.formats.kquant_symmetric import Q6_K
from fewbits.formats.legacy import Q4_0, Q5_0, Q8_0
from fewbits.formats.legacy_affine import Q4_1, Q5_1
from fewbits.formats.micro import MXFP4, NVFP4
from fewbits.formats.tiny import Q1_0, Q2_0
from fewbits.registry import Registry

__all__ = [
    "FORMATS",
    "MEMBERS",
    "ROWS",
    "Description",
    "Fields",
    "Format",
    "Grid",
    "Params",
    "RowFormat",
    "as_row_format",
    "bits",
    "bits_per_weight",
    "describe",
    "fits",
    "get",
    "is_row_format",
    "row_bytes",
]

FORMATS: Registry[Format] = Registry("format", FormatError)
# One line per family.
_ROWS: tuple[tuple[Format, ...], ...] = (
    (F64, F32, F16, BF16),
    (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0),
    (Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
    (IQ4_NL, IQ4_XS, IQ1_S, IQ1_M),
    (IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S),
    (TQ1_0, TQ2_0, Q1_0, Q2_0),
    (MXFP4, NVFP4),
)
for _format in (member for family in _ROWS for member in family):
    FORMATS.add(_format.name, _format)

ROWS = tuple(FORMATS)
"""Names of the formats that are a string of bytes per row, as GGUF stores matrices."""

# One line per family: a module with its PATTERN, its parser, and LISTED, the members that are tested for all.
for _family in (integers, ternary, codebooks, learned, fp8, mx, nvfp4):
    FORMATS.add_family(_family.PATTERN, _family.parse)
    for _name in _family.LISTED:
        FORMATS.add(_name, _family.parse(_name))

MEMBERS = tuple(name for name in FORMATS if name not in ROWS)
"""Names of the listed members of families; `get` knows all members."""


def get(name: str) -> Format:
    """The format called `name`, members of families included; raises FormatError, naming the nearest known names.

    >>> get("Q4_K").bits(1, 256) // 8, get("int5_g96_asym_bf16").bits(1, 96)
    (144, 504)
    """
    return FORMATS.get(name)


def describe(name: str) -> Description:
    """Everything known about the format called `name`, in any case: its numbers, its bytes, its use.

    >>> print(describe("q4_k").when)
    The usual choice for models of 7 billion parameters and more.
    """
    known = {n.upper(): n for n in FORMATS} | {n: n for n in FORMATS}  # mxfp4 is not GGUF's MXFP4
    return _describe(get(known.get(name, known.get(name.upper(), name))))
