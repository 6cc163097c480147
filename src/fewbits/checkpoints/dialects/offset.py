"""Formats whose offset is a number of its own, as dialects speak of them: bits, columns of a group, types."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.formats import offsets


@dataclass(frozen=True)
class Offset:
    """One scale, and one bias or zero point of the same type, per group of columns, or per row where `group` is 0."""

    bits: int
    group: int
    word: str
    """What a format's name calls the offset: bias or floatzero."""
    scale: str

    @property
    def name(self) -> str:
        """The name of the format.

        >>> Offset(4, 64, "bias", "f16").name
        'uint4_g64_bias_f16'
        """
        words = [f"uint{self.bits}", f"g{self.group}" if self.group else "row", self.word]
        return "_".join(words + ([] if self.scale == "f32" else [self.scale]))

    def groups(self, cols: int) -> int:
        """Scales of a row."""
        return cols // self.group if self.group else 1


def offset(format_name: str) -> Offset | None:
    """What the format called `format_name` is, if it has an offset of its own.

    >>> offset("uint4_g64_floatzero_f16")
    Offset(bits=4, group=64, word='floatzero', scale='f16')
    >>> offset("uint4_g64_asym_f16"), offset("Q4_1")
    (None, None)
    """
    try:
        found = formats.get(format_name)
    except FormatError:
        return None
    if not isinstance(found, offsets.Offset):
        return None
    return Offset(found.code_bits, found.scope.span, found.word, found.scale)
