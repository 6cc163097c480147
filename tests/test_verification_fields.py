"""The stranger's reading of fields is that of the formats, for every member of every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.errors import VerificationError
from fewbits.qtensor import QTensor
from fewbits.testing.inputs import normal
from fewbits.verification.fields import Slab, read_numbers

ROWS, COLS = 131, 384


def stored(name: str) -> QTensor:
    w = normal(ROWS, COLS, 3) * torch.logspace(-3, 3, ROWS)[:, None]
    format = formats.get(name)
    params = format.fit(w)
    return QTensor(format, format.encode(w, params), params)


@pytest.mark.parametrize("name", formats.members())
def test_every_member_reads_the_same(name: str) -> None:
    q = stored(name)
    fields = q.fields()
    for start, stop in ((0, ROWS), (128, ROWS), (1, 2)):
        found = read_numbers(name, Slab(fields, start, stop, COLS))
        wanted = q.dequantize().numpy()[start:stop]
        assert np.array_equal(found.view(np.uint32) << 1, wanted.view(np.uint32) << 1), "apart from the sign of 0"


@pytest.mark.parametrize("name", ["int4_g128_sym_f16", "mxfp4", "fp8_e4m3_row"])
def test_a_wrong_bit_is_seen(name: str) -> None:
    q = stored(name)
    fields = {key: field.copy() for key, field in q.fields().items()}
    fields["codes"][5, 7] ^= 4
    found = read_numbers(name, Slab(fields, 0, ROWS, COLS))
    assert not np.array_equal(found, q.dequantize().numpy())


def test_an_unknown_format_is_no_reading() -> None:
    with pytest.raises(VerificationError, match="no reading of the format int4_spiral"):
        read_numbers("int4_spiral", Slab({}, 0, 1, 32))
