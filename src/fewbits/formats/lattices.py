"""Lattices: the points that a vector of 4 or 8 columns can become, up to a scale and signs.

The points are llama.cpp's data; they come from the `gguf` package when a format that needs them is first used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.formats.base import Bytes


@dataclass(frozen=True)
class PackedPoints:
    """Points as the `gguf` package carries them: `bits`, and the numbers that they mean."""

    bits: Bytes
    numbers: tuple[int, ...]


def _source(name: str) -> Any:
    from gguf import quants

    return getattr(quants, name)


@cache
def points(name: str) -> npt.NDArray[np.int8]:
    """The points (count, width) of the lattice that the format `name` brought, in the order of their indices.

    >>> points("IQ2_XXS").shape, points("IQ2_XXS")[1].tolist()
    ((256, 8), [43, 8, 8, 8, 8, 8, 8, 8])
    """
    source = _source(name)
    source.init_grid()
    table: npt.NDArray[np.int8] = source.grid.reshape(source.grid_shape).astype(np.int8)
    table.flags.writeable = False
    return table


def packed_points(name: str) -> PackedPoints:
    """The same points packed, for whoever reads them on their own."""
    source = _source(name)
    return PackedPoints(np.frombuffer(bytes.fromhex(source.grid_hex.decode()), np.uint8), tuple(source.grid_map))
