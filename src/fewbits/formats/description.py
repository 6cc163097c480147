"""One format, as a person or a program asks about it: its numbers from the code, its texts from the guide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from fewbits.formats.base import Format, bits_per_weight, is_row_format
from fewbits.formats.drawing import WIDTH, draw, draw_fields
from fewbits.formats.guide import Family, Field, Guide, Part, guides

ROWS = COLS = 4096
"""The matrix whose fields are shown."""


@dataclass(frozen=True)
class Description:
    """What docs/formats.md and `fewbits formats` show of one format."""

    name: str
    entry: str
    """The entry of guide.toml: members of a family share one."""
    family: Family
    bits_per_weight: float
    """Exactly, scales included; where rows share something, of a 4096 x 4096 matrix."""
    span: int
    """Columns whose parameters are fitted together."""
    span_bytes: int | None
    """Bytes of a span; None where a format has several fields in place of one string of bytes."""
    equation: str
    layout: str
    """The bytes of a span, or the fields, in a sentence."""
    parts: tuple[Part, ...]
    """The bytes of a span one after another, or the bits of one code; empty where only the sentence is stated."""
    fields: tuple[Field, ...]
    """The arrays of a matrix of 4096 rows and about as many columns; empty where there is one string of bytes."""
    element: tuple[int, int] | None
    """Bits of exponent and mantissa where a code is a small float."""
    largest: float
    """The largest magnitude that comes back within the error bound."""
    error_bound: float
    """The largest error within a span over the span's largest magnitude, beyond `error_floor`."""
    error_floor: float
    readers: tuple[str, ...]
    when: str
    source: str

    def drawing(self, width: int = WIDTH) -> str:
        """What is stored, as plain text: boxes for the parts of a span, or of a code, and for fields; or a sentence."""
        if not self.fields:
            return draw(self.parts, width) if self.parts else "\n".join(wrap(self.layout, width))
        code = ["One code:", draw(self.parts, width), ""] if self.parts else []
        cols = COLS // self.span * self.span if self.span else COLS
        matrix = [f"A matrix of {ROWS} x {cols}:", draw_fields(self.fields, width), *wrap(self.layout, width)]
        return "\n".join([*code, *matrix])

    def to_json(self) -> dict[str, Any]:
        """The description as plain data."""
        element = dict(zip(("exponent_bits", "mantissa_bits"), self.element, strict=True)) if self.element else None
        return {**asdict(self), "family": self.family.name, "element": element}


def entry_of(format: Format) -> str:
    """Name of the entry of guide.toml that tells about `format`: its own, or the one that its family shares."""
    return str(getattr(format, "guide", format.name))


def guide_of(format: Format) -> Guide:
    """What guide.toml tells about `format`."""
    return guides()[entry_of(format)]


def describe(format: Format) -> Description:
    """Everything that is known about `format`."""
    guide = guide_of(format)
    return Description(
        name=format.name,
        entry=entry_of(format),
        family=guide.family,
        bits_per_weight=bits_per_weight(format),
        span=format.span,
        span_bytes=format.span_bytes if is_row_format(format) else None,
        equation=format.equation,
        layout=format.layout,
        parts=guide.parts,
        fields=_fields(format),
        element=guide.element,
        largest=format.largest,
        error_bound=format.error_bound,
        error_floor=format.error_floor,
        readers=guide.readers,
        when=guide.when,
        source=format.source,
    )


def _fields(format: Format) -> tuple[Field, ...]:
    """The arrays of a matrix, where the format has several and says so."""
    shapes = getattr(format, "shapes", None)
    if is_row_format(format) or shapes is None:
        return ()
    cols = COLS // format.span * format.span if format.span else COLS
    return tuple(Field(name, dtype, shape) for name, (dtype, shape) in shapes(ROWS, cols).items())
