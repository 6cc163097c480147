"""Columns in the order of their groups (act-order): the codes of a matrix whose groups are no neighbours.

Where a tool chose groups by how much columns matter, group g has the columns j with place[j] = g, wherever they are.
Fields hold the columns sorted by group, so that groups are neighbours, and `column_order` says which column each is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.fields import Matrix
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, unpack_bits
from fewbits.qtensor import ORDER

Places = npt.NDArray[np.int32]


def is_ordered(places: Places, group: int) -> bool:
    """Whether the groups `places` (cols,) of columns are other than neighbours.

    >>> is_ordered(np.array([0, 0, 1, 1], np.int32), 2), is_ordered(np.array([0, 1, 0, 1], np.int32), 2)
    (False, True)
    """
    width = min(group or len(places), len(places))  # a file may state a group that no number of columns could fill
    neighbours = np.arange(len(places)) // max(width, 1)
    return not np.array_equal(places, neighbours)


def order_of(places: Places, group: int, matrix: Matrix) -> Places:
    """Columns sorted by group; raises CheckpointError where groups are not of one size."""
    groups = len(places) // (group or len(places))
    known = places.size and 0 <= int(places.min()) <= int(places.max()) < groups  # else counting would take memory
    if not known or not np.array_equal(np.bincount(places, minlength=groups), np.full(groups, group)):
        raise CheckpointError(
            f"tensor {matrix.name} has groups (g_idx) that are not of {group} columns each; the file is damaged."
        )
    return np.argsort(places, kind="stable").astype(np.int32)


def places_of(fields: Fields, cols: int, group: int) -> Places:
    """The group of each column (cols,)."""
    sorted_places = np.arange(cols, dtype=np.int32) // np.int32(group or cols)
    if ORDER not in fields:
        return sorted_places
    places = np.empty_like(sorted_places)
    places[fields[ORDER]] = sorted_places
    return places


def in_place(fields: Fields, bits: int, cols: int) -> npt.NDArray[np.uint8]:
    """The packed codes of `fields` with every column in its place."""
    packed: npt.NDArray[np.uint8] = fields["codes"]
    if ORDER not in fields:
        return packed
    codes = np.empty((len(packed), cols), np.uint8)
    codes[:, fields[ORDER]] = unpack_bits(packed, bits, cols)
    return pack_bits(codes, bits)


def by_group(packed: npt.NDArray[np.uint8], bits: int, order: Places) -> npt.NDArray[np.uint8]:
    """Packed codes with the columns in `order`."""
    return pack_bits(unpack_bits(packed, bits, len(order))[:, order], bits)
