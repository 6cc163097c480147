"""Where the bits of points, signs and scales lie in a span: said as data, packed and unpacked by one piece of code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]


class Bundle(NamedTuple):
    """`each` numbers of a field, one after another: of each `bits` bits, from bit `first` upwards."""

    field: str
    each: int
    first: int
    bits: int


class Section(NamedTuple):
    """`times` the same bundles, one after another."""

    times: int
    bundles: tuple[Bundle, ...]


Layout = tuple[Section, ...]


def section(times: int, field: str, bits: int, first: int = 0) -> Section:
    """A section of one field, `times` numbers of it."""
    return Section(times, (Bundle(field, 1, first, bits),))


def layout_bits(layout: Layout) -> int:
    """Bits of one span.

    >>> layout_bits((section(32, "point", 8), Section(8, (Bundle("sign", 4, 0, 7), Bundle("scale", 1, 0, 4)))))
    512
    """
    return sum(part.times * bundle.each * bundle.bits for part in layout for bundle in part.bundles)


def to_bits(layout: Layout, fields: Mapping[str, Whole]) -> Bits:
    """Single bits (..., bits of a span) of fields (..., numbers of a span)."""
    parts = []
    for part in layout:
        bundles = []
        for bundle in part.bundles:
            numbers = fields[bundle.field][..., None] >> np.arange(bundle.first, bundle.first + bundle.bits) & 1
            bundles.append(numbers.reshape(*numbers.shape[:-2], part.times, -1).astype(np.uint8))
        together = np.concatenate(bundles, -1)
        parts.append(together.reshape(*together.shape[:-2], -1))
    return np.concatenate(parts, -1)


def from_bits(layout: Layout, bits: Bits) -> dict[str, Whole]:
    """The fields (..., numbers of a span) of single bits (..., bits of a span)."""
    fields: dict[str, Any] = {}
    for bundle, found in _bundles(layout, bits):
        numbers = (found.astype(np.int64) << np.arange(bundle.first, bundle.first + bundle.bits)).sum(-1)
        fields[bundle.field] = fields.get(bundle.field, 0) + numbers
    return fields


def _bundles(layout: Layout, bits: Bits) -> Iterator[tuple[Bundle, Bits]]:
    """Each bundle with its bits (..., numbers, bits of a number)."""
    at = 0
    for part in layout:
        size = sum(bundle.each * bundle.bits for bundle in part.bundles)
        found = bits[..., at : at + part.times * size].reshape(*bits.shape[:-1], part.times, size)
        at += part.times * size
        within = 0
        for bundle in part.bundles:
            own = found[..., within : within + bundle.each * bundle.bits]
            yield bundle, own.reshape(*bits.shape[:-1], -1, bundle.bits)
            within += bundle.each * bundle.bits
