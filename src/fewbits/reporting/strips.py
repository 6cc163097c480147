"""Pictures made of letters: histograms, bars and heat in Unicode's eighths of a cell."""

from __future__ import annotations

from collections.abc import Sequence

_HEIGHTS = " ▁▂▃▄▅▆▇█"
_WIDTHS = " ▏▎▍▌▋▊▉█"


def fitting(bins: int, room: int) -> int:
    """The most cells, at most `room`, that each show the same number of `bins`; unequal ones would draw waves.

    >>> fitting(360, 70), fitting(360, 100), fitting(7, 100)
    (60, 90, 7)
    """
    return max(n for n in range(1, min(room, bins) + 1) if bins % n == 0)


def columns(counts: Sequence[int], cells: int, height: int = 1) -> list[str]:
    """A histogram of `cells` columns and `height` lines, the top line first; what is not zero is seen.

    >>> columns([0, 1, 4, 16, 4, 1, 0, 0], 8, height=2)
    ['   █    ', ' ▁▄█▄▁  ']
    """
    each = len(counts) // cells
    sums = [sum(counts[n * each : (n + 1) * each]) for n in range(cells)]
    top = max(sums) or 1
    eighths = [max(1 if n else 0, round(8 * height * n / top)) for n in sums]
    return ["".join(_HEIGHTS[min(8, max(0, e - 8 * line))] for e in eighths) for line in reversed(range(height))]


def column(value: float, low: float, high: float) -> str:
    """One cell whose height tells where `value` lies between `low` and `high`.

    >>> column(4.5, 4.5, 6.5), column(6.5, 4.5, 6.5), column(4.5, 4.5, 4.5)
    ('▂', '█', '█')
    """
    return _HEIGHTS[2 + round(6 * (value - low) / (high - low))] if high > low else _HEIGHTS[8]


def bar(share: float, cells: int) -> str:
    """A bar from the left; what is not zero is seen.

    >>> bar(0.5, 4), bar(0.001, 4), bar(0, 4), bar(0.4, 4)
    ('██', '▏', '', '█▋')
    """
    eighths = max(1 if share > 0 else 0, round(8 * cells * min(1.0, share)))
    return "█" * (eighths // 8) + _WIDTHS[eighths % 8].strip()


def heat(value: float, low: float, high: float) -> str:
    """A colour for `value` between `low` (blue) and `high` (red), as rich names colours.

    >>> heat(0, 0, 1), heat(1, 0, 1), heat(3, 3, 3)
    ('#3b6fd4', '#d43b3b', '#3b6fd4')
    """
    stops = ((59, 111, 212), (64, 178, 120), (226, 188, 52), (212, 59, 59))
    place = (len(stops) - 1) * min(1.0, max(0.0, (value - low) / (high - low) if high > low else 0.0))
    left = min(int(place), len(stops) - 2)
    mixed = (a + (b - a) * (place - left) for a, b in zip(stops[left], stops[left + 1], strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)
