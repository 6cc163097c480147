"""What a person is told about a format beside its numbers: its family, its bytes, who reads it and when to use it.

The texts are data (guide.toml, families.toml), so that docs/formats.md and `fewbits formats` say the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

_ELEMENT = re.compile(r"E(\d+)M(\d+)")


@dataclass(frozen=True)
class Part:
    """`count` numbers of `bits` bits that lie together; `what` says what they are."""

    name: str
    count: int
    bits: int
    what: str

    @property
    def size(self) -> int:
        """Bits of the whole part."""
        return self.count * self.bits


@dataclass(frozen=True)
class Field:
    """One of several arrays that a format stores for a matrix."""

    name: str
    dtype: str
    """As numpy calls it; bfloat16 numbers lie in uint16."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Family:
    """Formats of one kind; `about` is the sentence that holds for all of them."""

    name: str
    title: str
    about: str


@dataclass(frozen=True)
class Guide:
    """One entry of guide.toml; `parts` is empty where no machine-readable layout is stated."""

    family: Family
    readers: tuple[str, ...]
    when: str
    element: tuple[int, int] | None
    """Bits of exponent and mantissa of a code that is a small float."""
    parts: tuple[Part, ...]
    signed: bool
    """The equation speaks of signed codes, stored in two's complement."""


@cache
def families() -> Mapping[str, Family]:
    """Name -> family, in the order in which a person meets them."""
    return MappingProxyType({name: Family(name, **texts) for name, texts in _read("families.toml").items()})


@cache
def guides() -> Mapping[str, Guide]:
    """Name of an entry -> what it tells."""
    return MappingProxyType({name: _guide(raw) for name, raw in _read("guide.toml").items()})


def _guide(raw: Mapping[str, Any]) -> Guide:
    element = parse_element(raw["element"]) if "element" in raw else None
    stated = tuple(Part(*part) for part in raw.get("parts", ()))
    alone = _bits_of_a_float(*element) if element and not stated else ()
    return Guide(
        family=families()[raw["family"]],
        readers=tuple(raw["readers"]),
        when=raw["when"],
        element=element,
        parts=stated or alone,
        signed=raw.get("signed", False),
    )


def parse_element(text: str) -> tuple[int, int]:
    """Bits of exponent and mantissa.

    >>> parse_element("E5M10")
    (5, 10)
    """
    found = _ELEMENT.fullmatch(text)
    assert found, f"{text} is not of the form E5M10"
    return int(found[1]), int(found[2])


def _bits_of_a_float(exponent: int, mantissa: int) -> tuple[Part, ...]:
    bias = 2 ** (exponent - 1) - 1
    fields = (
        Part("sign", 1, 1, "1 where the number is negative"),
        Part("exponent", 1, exponent, f"the power of two plus {bias}"),
        Part("mantissa", 1, mantissa, "what follows the leading 1"),
    )
    return tuple(field for field in fields if field.bits)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("fewbits.formats") / name).read_text(encoding="utf-8"))
