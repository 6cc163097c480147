"""Write docs/formats.md from the registry; a test fails when it is out of date."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fewbits import formats  # noqa: E402
from fewbits.formats.description import Description  # noqa: E402
from fewbits.formats.guide import Family, families  # noqa: E402
from fewbits.planning.recipe import fallbacks  # noqa: E402

DOCUMENT = ROOT / "docs" / "formats.md"

_HEAD = """# Formats

Written by `scripts/formats_document.py` from the registry; `fewbits formats` prints the same, and
`fewbits formats NAME` one format with its drawing.

A *span* is the number of columns whose parameters are fitted together. *Largest* is the largest magnitude that comes
back within the *error bound*, which is the largest error within a span over the span's largest magnitude, beyond an
absolute *floor* that 16-bit scales leave. Where a span does not divide the width of a matrix, the format under
*instead* is taken, as in llama.cpp. Integers and codebooks are families: their names say all parameters, every
combination is a format, and those listed here stand for them (docs/design/0005-families.md); a matrix is then stored as
several named fields, and its bits per weight are those of a 4096 x 4096 one. In drawings, `32 x 4` are 32 numbers of
4 bits; bytes count from 0.
"""

_TABLE = (
    "| format | bits per weight | span | equation | instead | who reads it | when to use it |",
    "|---|---|---|---|---|---|---|",
)


def document() -> str:
    """The whole document: per family a table, then each format with the drawing of its bytes."""
    known = [formats.describe(name) for name in formats.FORMATS]
    members = {family: [d for d in known if d.family == family] for family in families().values()}
    anchors = _anchors([d.name for described in members.values() for d in described])
    sections = [_family(family, described, anchors) for family, described in members.items() if described]
    return "\n".join([_HEAD, *sections])


def _anchors(names: Sequence[str]) -> dict[str, str]:
    """Format -> anchor of its heading; of headings that differ in case only, the second one's ends in -1."""
    lower = [name.lower() for name in names]
    before = [lower[:n].count(anchor) for n, anchor in enumerate(lower)]
    return {name: f"{a}-{n}" if n else a for name, a, n in zip(names, lower, before, strict=True)}


def _family(family: Family, members: Sequence[Description], anchors: Mapping[str, str]) -> str:
    rows = [
        f"| [`{d.name}`](#{anchors[d.name]}) | {d.bits_per_weight:.7g} | {d.span or 'all'} | `{d.equation}` "
        f"| {_instead(d)} | {', '.join(d.readers)} | {d.when} |"
        for d in members
    ]
    return "\n".join([f"## {family.title}", "", family.about, "", *_TABLE, *rows, "", *map(_format, members)])


def _instead(d: Description) -> str:
    return f"`{fallbacks().get(d.name, 'F16')}`" if d.span_bytes and d.span > 1 else ""


def _format(d: Description) -> str:
    size = f"{d.span_bytes} bytes for {_columns(d.span)}" if d.span_bytes else "Fields"
    facts = (
        f"`{d.equation}`. {size}; largest {d.largest:.6g}; "
        f"error bound {d.error_bound:.3g}, floor {d.error_floor:.2g}. Defined by: {d.source}."
    )
    return "\n".join([f"### {d.name}", "", *wrap(facts, 120), "", "```text", d.drawing(), "```", ""])


def _columns(count: int) -> str:
    return "one column" if count == 1 else f"{count} columns"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
