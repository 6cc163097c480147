"""GGUF's formats of 2 to 3.5 bits on lattices: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.

A vector of 8 columns (4 in IQ3_S) is a point of magnitudes and a sign per column. Where signs take seven bits of eight,
the eighth makes the number of negative columns even.
"""

from __future__ import annotations

from fewbits.formats.lattice_bits import Bundle, Section, section
from fewbits.formats.lattice_format import LatticeFormat
from fewbits.formats.lattice_grid import VectorCode

_SOURCE = "GGUF specification, quantization type {}; points: the gguf package"
_SCALES = section(16, "scale", 4)

IQ2_XXS = LatticeFormat(
    name="IQ2_XXS",
    code=VectorCode("IQ2_XXS", 1, even=True, width=8, count=256, top=43.0),
    length=32,
    unit=1 / 8,
    levels=(0.6875, 0.75, 0.8125, 0.875, 0.9375, 1.09375, 1.359375),
    spread=1.0,
    rooted=True,
    bits_of_span=(Section(8, (Bundle("point", 4, 0, 8), Bundle("sign", 4, 0, 7), Bundle("scale", 1, 0, 4))),),
    error_bound=1.5,
    equation="w = d * (2 * scale[g] + 1) / 8 * sign * point[v]",
    layout="d: binary16; for each 32 columns: 4 points of 8 bits, 4 times 7 signs, and the 4 bits of their scale",
    source=_SOURCE.format("IQ2_XXS"),
)
IQ2_XS = LatticeFormat(
    name="IQ2_XS",
    code=VectorCode("IQ2_XS", 1, even=True, width=8, count=512, top=43.0),
    length=16,
    unit=1 / 8,
    levels=(0.75, 0.8125, 0.875, 0.9375, 1.09375, 1.28125, 1.5),
    spread=1.0,
    rooted=True,
    bits_of_span=(Section(32, (Bundle("point", 1, 0, 9), Bundle("sign", 1, 0, 7))), _SCALES),
    error_bound=1.5,
    equation="w = d * (2 * scale[g] + 1) / 8 * sign * point[v]",
    layout="d: binary16; for each 8 columns: a point of 9 bits and 7 signs; 16 scales of 4 bits",
    source=_SOURCE.format("IQ2_XS"),
)
IQ2_S = LatticeFormat(
    name="IQ2_S",
    code=VectorCode("IQ2_S", 1, even=False, width=8, count=1024, top=43.0),
    length=16,
    unit=1 / 8,
    levels=(0.75, 0.8125, 0.875, 0.9375, 1.09375, 1.28125, 1.5),
    spread=2.0,
    rooted=False,
    bits_of_span=(section(32, "point", 8), section(32, "sign", 8), section(32, "point", 2, first=8), _SCALES),
    error_bound=1.0,
    equation="w = d * (2 * scale[g] + 1) / 8 * sign * point[v]",
    layout="d: binary16; for each 8 columns: the low 8 bits of a point, then its 8 signs, then its upper 2 bits; "
    "16 scales of 4 bits",
    source=_SOURCE.format("IQ2_S"),
)
IQ3_XXS = LatticeFormat(
    name="IQ3_XXS",
    code=VectorCode("IQ3_XXS", 2, even=True, width=4, count=256, top=62.0),
    length=32,
    unit=1 / 4,
    levels=(0.875, 0.9375, 1.0625, 1.1875, 1.40625, 1.71875, 2.0),
    spread=2.0,
    rooted=False,
    bits_of_span=(section(64, "point", 8), Section(8, (Bundle("sign", 4, 0, 7), Bundle("scale", 1, 0, 4)))),
    error_bound=1.5,
    equation="w = d * (2 * scale[g] + 1) / 4 * sign * point[v]",
    layout="d: binary16; for each 4 columns a point of 8 bits; for each 32 columns 4 times 7 signs and the 4 bits of "
    "their scale",
    source=_SOURCE.format("IQ3_XXS"),
)
IQ3_S = LatticeFormat(
    name="IQ3_S",
    code=VectorCode("IQ3_S", 1, even=False, width=4, count=512, top=15.0),
    length=32,
    unit=1.0,
    levels=(0.9375, 1.0625, 1.15625, 1.34375, 1.5, 1.71875, 2.0),
    spread=2.0,
    rooted=False,
    bits_of_span=(
        section(64, "point", 8),
        section(64, "point", 1, first=8),
        section(64, "sign", 4),
        section(8, "scale", 4),
    ),
    error_bound=1.0,
    equation="w = d * (2 * scale[g] + 1) * sign * point[v]",
    layout="d: binary16; for each 4 columns: the low 8 bits of a point, then its ninth bit, then its 4 signs; "
    "8 scales of 4 bits",
    source=_SOURCE.format("IQ3_S"),
)
