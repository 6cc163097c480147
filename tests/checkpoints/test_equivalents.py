"""One matrix under two names: the numbers of both formats are the same, and moving there and back changes no bit."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits import formats
from fewbits.checkpoints.equivalents import BY_FIELDS, BY_ROWS
from fewbits.formats import as_row_format
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.inputs import normal

ROWS, COLS = 7, 160


@pytest.mark.parametrize("name", BY_ROWS)
def test_the_numbers_are_the_same_and_nothing_is_lost(name: str) -> None:
    pair, w = BY_ROWS[name], normal(ROWS, COLS, 5) * normal(ROWS, 1, 6)
    rows = as_row_format(formats.get(pair.rows))
    params = rows.fit(w)
    packed = rows.pack(rows.encode(w, params), params)
    fields = pair.to_fields(packed)
    there = stored_numbers(formats.get(pair.fields), fields, (ROWS, COLS))
    here = stored_numbers(rows, {"data": packed}, (ROWS, COLS))
    assert (here == there).all()
    assert len(np.unique(here.numpy())) > 30
    assert np.array_equal(pair.to_rows(fields), packed)


@pytest.mark.parametrize("name", BY_FIELDS)
def test_every_byte_has_its_place(name: str) -> None:
    """Whatever bytes a file brings."""
    pair = BY_FIELDS[name]
    width = formats.row_bytes(formats.get(pair.rows), COLS)
    packed = np.random.default_rng(1).integers(0, 256, (ROWS, width), np.uint8)
    assert np.array_equal(pair.to_rows(pair.to_fields(packed)), packed)
    shapes = formats.get(pair.fields).shapes(ROWS, COLS)
    assert {k: (str(f.dtype), f.shape) for k, f in pair.to_fields(packed).items()} == shapes
