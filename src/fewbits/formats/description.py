"""One format, as a person or a program asks about it: its numbers from the code, its texts from the guide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fewbits.formats.base import Format, bits_per_weight, is_row_format
from fewbits.formats.drawing import WIDTH, draw
from fewbits.formats.guide import Family, Guide, Part, guides


@dataclass(frozen=True)
class Description:
    """What docs/formats.md and `fewbits formats` show of one format."""

    name: str
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
    """The bytes of a span one after another; empty where the format only states the sentence."""
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
        """The bytes of a span as plain text: boxes where the parts are stated, else the sentence."""
        return draw(self.parts, width) if self.parts else self.layout

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
        family=guide.family,
        bits_per_weight=bits_per_weight(format),
        span=format.span,
        span_bytes=format.span_bytes if is_row_format(format) else None,
        equation=format.equation,
        layout=format.layout,
        parts=guide.parts,
        element=guide.element,
        largest=format.largest,
        error_bound=format.error_bound,
        error_floor=format.error_floor,
        readers=guide.readers,
        when=guide.when,
        source=format.source,
    )
