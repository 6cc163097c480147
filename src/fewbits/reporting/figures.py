"""Numbers as a person reads them; everything here is pure text, in decimal units."""

from __future__ import annotations

_BYTE_UNITS = ("kB", "MB", "GB", "TB")
_COUNT_UNITS = ("k", "M", "B", "T")


def size(count: int) -> str:
    """Bytes with a decimal unit.

    >>> size(999), size(8_397_312), size(2_100_000_000)
    ('999 B', '8.40 MB', '2.10 GB')
    """
    return f"{count} B" if count < 1000 else _scaled(count, _BYTE_UNITS)


def count(number: int) -> str:
    """A number of weights, short.

    >>> count(512), count(4_198_400), count(1_100_000_000)
    ('512', '4.20 M', '1.10 B')
    """
    return str(number) if number < 1000 else _scaled(number, _COUNT_UNITS)


def duration(seconds: float) -> str:
    """A time with the digits that matter.

    >>> duration(0.034), duration(4.56), duration(75), duration(7384)
    ('0.03 s', '4.6 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float) -> str:
    """A share as a percentage; what is small but not zero does not read as zero.

    >>> percent(0), percent(0.00001), percent(0.1234), percent(1)
    ('0%', '<0.01%', '12.3%', '100%')
    """
    if 0 < share < 0.0001:
        return "<0.01%"
    if share >= 0.9995 and share < 1:
        return ">99.9%"
    return f"{100 * share:.3g}%"


def error(relative_rms: float) -> str:
    """A relative RMS error; 0 only where every stored number is exact.

    >>> error(0.0), error(0.0712345), error(1.2e-5)
    ('exact', '7.12%', '0.0012%')
    """
    if relative_rms == 0:
        return "exact"
    figure = 100 * relative_rms
    return f"{figure:.2f}%" if figure >= 0.1 else f"{figure:.2g}%" if figure >= 1e-4 else f"{figure:.1e}%"


def _scaled(number: float, units: tuple[str, ...]) -> str:
    scaled = float(number)
    for unit in units:
        scaled /= 1000
        if scaled < 999.5 or unit == units[-1]:
            break
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {unit}"
