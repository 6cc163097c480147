"""The number formats, by name; adding one is a file and a word here."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from fewbits.errors import FormatError
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
from fewbits.registry import Registry

if TYPE_CHECKING:
    from fewbits.formats.description import Description

__all__ = [
    "FORMATS",
    "ROWS",
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
    "members",
    "row_bytes",
]

FORMATS: Registry[Format] = Registry("format", FormatError)

# Module and name of the formats that are a string of bytes per row, as GGUF stores matrices; a module is imported when
# one of its formats is asked for.
_ROWS = (
    ("floats", "F64 F32 F16 BF16"),
    ("legacy", "Q4_0"),
    ("legacy_affine", "Q4_1"),
    ("legacy", "Q5_0"),
    ("legacy_affine", "Q5_1"),
    ("legacy", "Q8_0"),
    ("kquant_pairs", "Q2_K Q3_K"),
    ("kquant", "Q4_K Q5_K"),
    ("kquant_symmetric", "Q6_K"),
    ("iq4", "IQ4_NL IQ4_XS"),
    ("iq1", "IQ1_S IQ1_M"),
    ("iquant", "IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S"),
    ("gguf_ternary", "TQ1_0 TQ2_0"),
    ("tiny", "Q1_0 Q2_0"),
    ("micro", "MXFP4 NVFP4"),
)
# Modules with a PATTERN of names, the function `parse`, and LISTED, the members that are tested for all.
_FAMILIES = ("integers", "absmax", "offsets", "ternary", "codebooks", "learned", "fp8", "mx", "nvfp4")

ROWS = tuple(name for _, names in _ROWS for name in names.split())
"""Names of the formats that are a string of bytes per row."""


def _row_format(module: str, name: str) -> Format:
    format: Format = getattr(import_module(f"fewbits.formats.{module}"), name)
    return format


def _add_families() -> None:
    for module in _FAMILIES:
        family = import_module(f"fewbits.formats.{module}")
        FORMATS.add_family(family.PATTERN, family.parse)
        for name in family.LISTED:
            FORMATS.add_later(name, partial(family.parse, name))


for _module, _names in _ROWS:
    for _name in _names.split():
        FORMATS.add_later(_name, partial(_row_format, _module, _name))
FORMATS.add_rest(_add_families)


def members() -> tuple[str, ...]:
    """Names of the listed members of families; `get` knows all members."""
    return tuple(name for name in FORMATS if name not in ROWS)


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
    from fewbits.formats import description

    known = {n.upper(): n for n in FORMATS} | {n: n for n in FORMATS}  # mxfp4 is not GGUF's MXFP4
    return description.describe(get(known.get(name, known.get(name.upper(), name))))
