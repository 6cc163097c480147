"""A few numbers in several formats: the bits that are stored, the value that comes back, the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import formats
from fewbits.errors import FewbitsError
from fewbits.explanation.bits import as_stored, code_width, pattern, pieces
from fewbits.explanation.choice import FOR_NUMBERS, choose
from fewbits.formats import Format, Params
from fewbits.formats.description import guide_of
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

MOST_NUMBERS = 1024
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class StoredNumber:
    """One number as a format stores it."""

    number: float
    """As it was given."""
    bits: tuple[tuple[str, str], ...]
    """(name, binary digits), the highest bit first: sign, exponent, mantissa, or the code."""
    code: int
    """What the format's equation calls the code; for a plain float, its bits as an integer."""
    parameters: tuple[tuple[str, float], ...]
    """Scales and offsets that this number is decoded with; empty where the format has none."""
    value: float
    """What comes back."""

    @property
    def error(self) -> float:
        """What comes back less what was given."""
        return self.value - self.number

    @property
    def relative_error(self) -> float:
        """The error over the number; 0 where both are 0, infinite where only the number is."""
        return (
            self.error / abs(self.number) if self.number else math.copysign(math.inf, self.error) if self.error else 0.0
        )

    def to_json(self) -> dict[str, Any]:
        """The stored number as plain data."""
        data = {**asdict(self), "error": self.error, "relative_error": self.relative_error}
        return data | {"bits": dict(self.bits), "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class NumbersInFormat:
    """All given numbers in one format."""

    format: str
    bits_per_weight: float
    columns: int
    """Columns of the row in which the numbers were stored."""
    bytes: int
    """Stored bytes of that row, scales included."""
    how: str
    """What was done to make a row of the numbers, in a sentence."""
    equation: str
    """What a code means."""
    stored: tuple[StoredNumber, ...]

    def to_json(self) -> dict[str, Any]:
        """The numbers in this format as plain data."""
        return {**asdict(self), "stored": [number.to_json() for number in self.stored]}


@dataclass(frozen=True)
class NumbersExplained:
    """Numbers in several formats."""

    numbers: tuple[float, ...]
    formats: tuple[NumbersInFormat, ...]

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain data."""
        return {"numbers": list(self.numbers), "formats": [each.to_json() for each in self.formats]}


def explain_numbers(numbers: Sequence[float], names: Sequence[str] | None = None) -> NumbersExplained:
    """Store `numbers` in each of the formats called `names` and read them back.

    Raises FewbitsError for a number that is not finite in float32, for none, and for more than 1024.
    """
    given = tuple(float(number) for number in numbers)
    if not given:
        raise FewbitsError("there is no number to explain; give one or more, or a tensor.")
    if len(given) > MOST_NUMBERS:
        raise FewbitsError(f"{len(given)} numbers are too many to show; give at most {MOST_NUMBERS}, or a tensor.")
    for number in given:
        if not math.isfinite(number) or abs(number) > _LARGEST:
            raise FewbitsError(f"{number} is no finite number in float32, and weights are; give a smaller one.")
    return NumbersExplained(given, tuple(_in_format(given, format) for format in choose(names, FOR_NUMBERS)))


def _in_format(numbers: tuple[float, ...], format: Format) -> NumbersInFormat:
    columns, how = _row(len(numbers), format)
    w = torch.from_numpy(np.resize(np.array(numbers, np.float32), (1, columns)))
    params = format.fit(w, like=format.prepare([w]))
    codes = format.encode(w, params)
    values = format.decode(codes, params)
    width, element = code_width(format, codes), guide_of(format).element
    stored = []
    for n, number in enumerate(numbers):
        bits, code = as_stored(format, pattern(codes[0, n]), width)
        scales = _parameters(params, n, columns)
        stored.append(StoredNumber(number, pieces(bits, width, element), code, scales, float(values[0, n])))
    size = formats.bits(format, 1, columns) // 8
    return NumbersInFormat(format.name, 8 * size / columns, columns, size, how, format.equation, tuple(stored))


def _row(count: int, format: Format) -> tuple[int, str]:
    """Columns of the row that holds the numbers, and how it was made."""
    if format.span == 1:
        return count, "each number stands alone"
    columns = -(-count // format.span) * format.span if format.span else count
    what = "the number is" if count == 1 else f"the {count} numbers are"
    if columns == count:
        return columns, f"{what} a whole row"
    return columns, f"{what} repeated until a row of {columns} columns is full"


def _parameters(params: Params, column: int, columns: int) -> tuple[tuple[str, float], ...]:
    """The parameters in force at `column`: each array has an entry per span or group of the row."""
    return tuple((name, float(a[0, column * a.shape[1] // columns])) for name, a in params.arrays.items())
