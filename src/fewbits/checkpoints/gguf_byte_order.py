"""Tensors of big-endian GGUF files, turned into the little-endian bytes that everything else reads, slab by slab.

ggml writes its structs as they lie in memory. On a big-endian machine the bytes of each number are the other way round,
and numbers are what a struct declares as such: halves, floats, integers of 16 bits and more. Codes that are packed into
bytes are the same on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.checkpoints.derived import DerivedTensor
from fewbits.checkpoints.ggml_types import GGML_TYPES
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

_SCALE_FIRST, _PAIR_FIRST = (1, 2), (2, 2)

_NUMBERS: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        **dict.fromkeys(("I8", "MXFP4", "NVFP4"), ((1, 1),)),
        **dict.fromkeys(("F16", "BF16", "I16"), ((1, 2),)),
        **dict.fromkeys(("F32", "I32"), ((1, 4),)),
        **dict.fromkeys(("F64", "I64"), ((1, 8),)),
        **dict.fromkeys(("Q4_0", "IQ4_NL", "Q1_0", "Q2_0"), (_SCALE_FIRST, (16, 1))),
        "Q4_1": (_PAIR_FIRST, (16, 1)),
        "Q8_0": (_SCALE_FIRST, (32, 1)),
        "Q2_K": ((80, 1), (2, 2)),
        "Q4_K": (_PAIR_FIRST, (140, 1)),
        "Q5_K": (_PAIR_FIRST, (172, 1)),
        "Q6_K": ((208, 1), (1, 2)),
        "TQ1_0": ((52, 1), (1, 2)),
        "TQ2_0": ((64, 1), (1, 2)),
    }
)
"""Type -> (count, bytes each) of the numbers in a span, in order; one number stands for a span of equal ones.

Types whose codes ggml itself reads several bytes at a time (Q5_0, Q3_K, most IQ) are not here: what a big-endian
machine has in them is not settled by their struct.
"""


@cache
def _places(name: str) -> tuple[int, ...]:
    """Which byte of a big-endian span each byte of a little-endian one is.

    >>> _places("Q4_1")[:6]
    (1, 0, 3, 2, 4, 5)
    """
    places: list[int] = []
    for count, width in _NUMBERS[name]:
        for _ in range(count):
            start = len(places)
            places += range(start + width - 1, start - 1, -1)
    return tuple(places)


@dataclass(frozen=True)
class SwappedTensor(DerivedTensor):
    """A tensor of a big-endian file as a little-endian one has it; its own buffer is empty."""

    @staticmethod
    def of(own: StoredTensor) -> SwappedTensor:
        """`own`, whose bytes are those of a big-endian machine, in the other order."""
        return SwappedTensor(own.name, own.format, own.shape, own.buffer[:0], own)

    @property
    def in_file(self) -> StoredTensor:
        """Itself: nobody reads the bytes as they are in the file."""
        return self

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(self.own.row_bytes)

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop`, copied; raises CheckpointError for types whose order of bytes is not known."""
        if self.format not in _NUMBERS:
            raise CheckpointError(
                f"tensor {quoted(self.name)} is {self.format} in a big-endian file, and which of its bytes trade "
                f"places is not known; known: {', '.join(_NUMBERS)}. Convert the file on the machine it was made on."
            )
        rows: Bytes = self.own.slab(start, stop)
        places = _places(self.format)
        if len(places) == 1:
            return rows
        turned: Bytes = rows.reshape(-1, len(places))[:, places].reshape(rows.shape)
        return turned


def _check_table() -> None:
    sizes = {kind.name: kind.span_bytes for kind in GGML_TYPES.values()}
    for name in _NUMBERS:
        assert sizes[name] % len(_places(name)) == 0, name


_check_table()
