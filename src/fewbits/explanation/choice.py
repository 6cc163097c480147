"""Which formats are shown when the user names none: the ones that people choose between, from exact to small."""

from __future__ import annotations

from collections.abc import Sequence

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.formats import Format

FOR_NUMBERS = (
    "F32",
    "F16",
    "BF16",
    "fp8_e4m3_row",
    "mxfp4",
    "nvfp4",
    "int8_row_sym",
    "int4_g32_sym_f16",
    "nf4_g64",
    "Q8_0",
    "Q6_K",
    "Q4_K",
    "Q4_0",
    "IQ4_XS",
)
FOR_TENSORS = (
    "int8_row_sym",
    "fp8_e4m3_row",
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q4_K",
    "int4_g128_sym_f16",
    "nvfp4",
    "mxfp4",
    "IQ4_XS",
    "Q3_K",
    "Q2_K",
)
ALL = "all"


def choose(names: Sequence[str] | None, usual: Sequence[str]) -> list[Format]:
    """The formats called `names` in any case, "all" of them, or the `usual` ones; FormatError for an unknown name."""
    if names is None:
        return [formats.get(name) for name in usual if name in formats.FORMATS]
    if [name.lower() for name in names] == [ALL]:
        return [formats.get(name) for name in formats.FORMATS]
    found = dict.fromkeys(formats.describe(name).name for name in names)
    if not found:
        raise FormatError(f"no format is named; give some of {', '.join(formats.FORMATS)}.")
    return [formats.get(name) for name in found]
