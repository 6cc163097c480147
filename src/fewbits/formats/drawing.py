"""The bytes of a span as a drawing of plain text: one box per part, and a line that says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from fewbits.formats.guide import Field, Part

WIDTH = 78


def draw(parts: Sequence[Part], width: int = WIDTH) -> str:
    """Boxes in the order of the bytes with the first position of each above it, then one line per part.

    Where a part is no whole number of bytes, bits are drawn in place of bytes, the highest first.

    >>> print(draw((Part("d", 1, 16, "the scale"), Part("codes", 32, 4, "two in a byte")), width=40))
    byte 0     2                          18
         ┌─────┬───────────────────────────┐
         │  d  │           codes           │
         │     │           32 x 4          │
         └─────┴───────────────────────────┘
    d       0 ..  1  the scale
    codes   2 .. 17  two in a byte
    """
    whole = all(part.size % 8 == 0 for part in parts)
    ends, total = [], 0
    for part in parts:
        total += part.size // 8 if whole else part.size
        ends.append(total)
    starts = [0, *ends[:-1]]
    if whole:
        places, ruler = list(zip(starts, [end - 1 for end in ends], strict=True)), [*starts, total]
    else:
        places = [(total - 1 - start, total - end) for start, end in zip(starts, ends, strict=True)]
        ruler = [*(high for high, _ in places), 0]
    unit = "byte" if whole else "bit"
    return "\n".join([*_boxes(parts, ruler, unit, width), *_legend(parts, places, width)])


def draw_fields(fields: Sequence[Field], width: int = WIDTH) -> str:
    """Boxes in proportion to the bytes of each field, with its type and shape.

    >>> print(draw_fields((Field("codes", "uint8", (4, 64)), Field("scale", "float16", (4, 1))), width=36))
    ┌──────────────────┬───────────────┐
    │      codes       │     scale     │
    │   uint8 4 x 64   │ float16 4 x 1 │
    └──────────────────┴───────────────┘
    """
    insides = [(field.name, f"{field.dtype} {' x '.join(map(str, field.shape))}") for field in fields]
    widths = _shares([field.size for field in fields], _widths(insides), width - len(fields) - 1)
    return "\n".join(_frame(insides, widths, ""))


def _widths(insides: Sequence[tuple[str, str]]) -> list[int]:
    return [max(map(len, inside)) + 2 for inside in insides]


def _frame(insides: Sequence[tuple[str, str]], widths: Sequence[int], margin: str) -> list[str]:
    rows = [[inside[row].center(w) for inside, w in zip(insides, widths, strict=True)] for row in (0, 1)]
    return [
        margin + "┌" + "┬".join("─" * w for w in widths) + "┐",
        *(margin + "│" + "│".join(row) + "│" for row in rows if "".join(row).strip()),
        margin + "└" + "┴".join("─" * w for w in widths) + "┘",
    ]


def _boxes(parts: Sequence[Part], ruler: Sequence[int], unit: str, width: int) -> list[str]:
    insides = [(part.name, f"{part.count} x {part.bits}" if part.count > 1 else "") for part in parts]
    # A box is wide enough for its words and for the position above it; the last one for two positions.
    least = [max(w, len(str(n)) + 2) for w, n in zip(_widths(insides), ruler, strict=False)]
    least[-1] = max(least[-1], len(f"{ruler[-2]} {ruler[-1]}"))
    margin = " " * (len(unit) + 1)
    widths = _shares([part.size for part in parts], least, width - len(margin) - len(parts) - 1)
    numbers = "".join(str(n).ljust(w + 1) for n, w in zip(ruler[:-1], widths, strict=True))
    last = str(ruler[-1])
    room = len(numbers) + 1 - len(last)
    return [f"{unit} {numbers[:room]:<{room}}{last}", *_frame(insides, widths, margin)]


def _shares(sizes: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of at least `least`; the rest of `room` is shared out by size, what is left to the largest."""
    spare = max(0, room - sum(least))
    widths = [low + spare * size // sum(sizes) for low, size in zip(least, sizes, strict=True)]
    widths[sizes.index(max(sizes))] += max(0, room - sum(widths))
    return widths


def _legend(parts: Sequence[Part], places: Sequence[tuple[int, int]], width: int) -> list[str]:
    names = max(len(part.name) for part in parts)
    digits = max(len(str(n)) for place in places for n in place)
    lines = []
    for part, (first, last) in zip(parts, places, strict=True):
        where = f"{first:>{digits}} .. {last:>{digits}}" if first != last else f"{first:>{digits}}"
        head = f"{part.name:<{names}}  {where:<{2 * digits + 4}}  "
        lines += wrap(part.what, width, initial_indent=head, subsequent_indent=" " * len(head))
    return lines
