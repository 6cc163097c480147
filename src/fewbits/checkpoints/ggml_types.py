"""What ggml's type numbers mean for readers and writers: a name, columns per span, and bytes per span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fewbits.errors import CheckpointError


@dataclass(frozen=True)
class GGMLType:
    """One tensor type: `span` columns are stored in `span_bytes` bytes."""

    name: str
    span: int
    span_bytes: int


_TABLE: tuple[tuple[int, str, int, int], ...] = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)

GGML_TYPES: Mapping[int, GGMLType] = MappingProxyType({n: GGMLType(name, s, b) for n, name, s, b in _TABLE})
"""Type number -> type, for every type whose layout this table states itself."""

_NUMBERS: Mapping[str, int] = MappingProxyType({name: number for number, name, *_ in _TABLE})


def ggml_number(name: str) -> int:
    """The number of the type called `name`; raises CheckpointError where a GGUF file cannot hold such a tensor."""
    if name not in _NUMBERS:
        raise CheckpointError(f"a GGUF file cannot hold {name}; it holds {', '.join(_NUMBERS)}.")
    return _NUMBERS[name]


def ggml_type(number: int) -> GGMLType | None:
    """The type with `number`; types newer than the table are looked up in the gguf package, None when it knows none."""
    if number in GGML_TYPES:
        return GGML_TYPES[number]
    from gguf.constants import GGML_QUANT_SIZES

    for kind, (span, span_bytes) in GGML_QUANT_SIZES.items():
        if kind.value == number:
            return GGMLType(kind.name, span, span_bytes)
    return None


def file_type(name: str) -> int:
    """llama.cpp's number of the mix called `name`, "MOSTLY_Q4_K_M" for instance."""
    from gguf import LlamaFileType

    # The gguf package does not know the newest yet.
    return 41 if name == "MOSTLY_Q2_0" else int(LlamaFileType[name])
