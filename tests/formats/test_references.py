"""Formats against slow references that share nothing with them: decoding to the last bit, searching to the error."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fewbits import formats, kernels
from fewbits.testing.inputs import matrices, normal
from references import lattices, shifted_lattice, small_searches, table_searches
from references.formats import SPANS, as_float32, decode
from references.searches import one_level, own_weights, two_level


def test_every_format_has_a_reference() -> None:
    assert set(formats.ROWS) == set(SPANS)


def random_bytes(name: str, spans: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(len(name) + spans)
    stored = torch.randint(0, 256, (2, spans * SPANS[name][0]), generator=generator, dtype=torch.uint8)
    return stored.numpy()


def same_numbers(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal as numbers, NaN where the other is NaN: a reference of products has no word on the sign of zero."""
    assert np.array_equal(found, wanted, equal_nan=True)


@pytest.mark.parametrize("name", list(formats.ROWS))
def test_decoding_random_bytes(name: str) -> None:
    format = formats.get(name)
    stored = random_bytes(name, 5 if format.span > 1 else 500)
    wanted = as_float32(decode(name, stored))
    same_numbers(format.decode(*format.unpack(stored, wanted.shape[1])).numpy(), wanted)
    for isa in kernels.available():
        same_numbers(kernels.decode_rows(name, stored, wanted.shape[1], isa=isa), wanted)


@pytest.mark.parametrize("name", list(formats.ROWS))
def test_decoding_what_was_encoded(name: str) -> None:
    format = formats.get(name)
    w = torch.cat([m[:1] for m in matrices(2, max(format.span, 16), format.largest).values()])
    params = format.fit(w)
    codes = format.encode(w, params)
    same_numbers(format.decode(codes, params).numpy(), as_float32(decode(name, format.pack(codes, params))))


SEARCHES = {
    **{name: partial(one_level, name) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")},
    **{name: partial(two_level, name) for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")},
    **table_searches.SEARCHES,
    **small_searches.SEARCHES,
    **lattices.SEARCHES,
    **shifted_lattice.SEARCHES,
}
"""Weighted error of a span, by a plain search."""

KINDS = {
    "gaussian": normal(4, 256, 11) * 0.05,
    "heavy-tailed": normal(4, 256, 12) ** 3,
    "positive": normal(4, 256, 13).abs(),
    "far from zero": 3.0 + 0.2 * normal(4, 256, 14),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEARCHES)
def test_fit_is_no_worse_than_a_plain_search(name: str, kind: str) -> None:
    """In its own weights, over a matrix; the reference measures our numbers through its own decoder."""
    format, w = formats.get(name), KINDS[kind]
    params = format.fit(w)
    numbers = w.double().numpy()
    stored = decode(name, format.pack(format.encode(w, params), params))
    ours = float((own_weights(name, numbers) * (stored - numbers) ** 2).sum())
    theirs = sum(SEARCHES[name](span) for span in numbers.reshape(-1, format.span))
    assert ours <= theirs * (1 + 1e-12)
