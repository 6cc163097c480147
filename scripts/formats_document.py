"""Write docs/formats.md from the registry; a test fails when it is out of date."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    sections = [_family(family, described) for family, described in members.items() if described]
    return "\n".join([_HEAD, *sections])


def _family(family: Family, members: Sequence[Description]) -> str:
    rows = [
        f"| [`{d.name}`](#{d.name.lower()}) | {d.bits_per_weight:.7g} | {d.span or 'all'} | `{d.equation}` "
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
