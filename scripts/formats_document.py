"""Write docs/formats.md from the registry; a test fails when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from fewbits import formats  # noqa: E402
from fewbits.planning.recipe import fallbacks  # noqa: E402

DOCUMENT = ROOT / "docs" / "formats.md"

_HEAD = """# Formats

Written by `scripts/formats_document.py` from the registry. A *span* is the number of columns whose parameters are
fitted together; *largest* is the largest magnitude that comes back within the *error bound*, which is the largest error
within a span over the span's largest magnitude, beyond an absolute floor that 16-bit scales leave. Where a span does
not divide the width of a matrix, *instead* is taken, as in llama.cpp.
"""

_ROW = "| `{name}` | {bits:g} | {span} | `{equation}` | {largest:.6g} | {bound:.3g} | {floor:.2g} | {instead} |"


def document() -> str:
    """The whole document: a table of all formats, then the bytes of a span of each and where it is defined."""
    known = [formats.get(name) for name in formats.FORMATS]
    table = [
        "| format | bits per weight | span | equation | largest | error bound | floor | instead |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _ROW.format(
                name=f.name,
                bits=formats.bits_per_weight(f),
                span=f.span,
                equation=f.equation,
                largest=f.largest,
                bound=f.error_bound,
                floor=f.error_floor,
                instead=f"`{fallbacks().get(f.name, 'F16')}`" if f.span > 1 else "",
            )
            for f in known
        ),
    ]
    layouts = [f"- `{f.name}`, {f.span_bytes} bytes: {f.layout}. ({f.source})" for f in known]
    return "\n".join([_HEAD, *table, "", "## The bytes of a span, in order", "", *layouts, ""])


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
