"""The element types of ONNX's tensors: their bits, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

STRING = 8
FLOAT, FLOAT16 = 1, 10
UINT8, INT8 = 2, 3
UINT4, INT4, UINT2, INT2 = 21, 22, 25, 26


@dataclass(frozen=True)
class Element:
    """One element type."""

    format: str
    """As the format registry calls it where it knows it, else in the same manner."""
    bits: int

    def bytes(self, dims: tuple[int, ...]) -> int:
        """Of a tensor of these sides; the last byte is filled up."""
        return -(-prod(dims) * self.bits // 8)


_TYPES = {
    FLOAT: ("F32", 32),
    UINT8: ("U8", 8),
    INT8: ("I8", 8),
    4: ("U16", 16),
    5: ("I16", 16),
    6: ("I32", 32),
    7: ("I64", 64),
    9: ("BOOL", 8),
    FLOAT16: ("F16", 16),
    11: ("F64", 64),
    12: ("U32", 32),
    13: ("U64", 64),
    14: ("C64", 64),
    15: ("C128", 128),
    16: ("BF16", 16),
    17: ("F8_E4M3", 8),
    18: ("F8_E4M3FNUZ", 8),
    19: ("F8_E5M2", 8),
    20: ("F8_E5M2FNUZ", 8),
    UINT4: ("U4", 4),
    INT4: ("I4", 4),
    23: ("F4_E2M1", 4),
    24: ("F8_E8M0", 8),
    UINT2: ("U2", 2),
    INT2: ("I2", 2),
    27: ("F6_E2M3", 6),
    28: ("F6_E3M2", 6),
}
ELEMENTS: Mapping[int, Element] = MappingProxyType({kind: Element(*told) for kind, told in _TYPES.items()})
"""Number of the type in TensorProto.DataType -> what it is; texts have no bits of their own and are not among them."""


def type_name(kind: int) -> str:
    """What the element type `kind` is called, known or not.

    >>> type_name(10), type_name(99)
    ('F16', 'type 99')
    """
    return ELEMENTS[kind].format if kind in ELEMENTS else "STRING" if kind == STRING else f"type {kind}"


FLOATS: Mapping[str, int] = MappingProxyType({"F32": FLOAT, "F16": FLOAT16})
"""Formats of weights that are read and kept -> their element type."""
