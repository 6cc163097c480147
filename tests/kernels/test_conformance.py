"""Every native codec gives the bits of torch on every instruction set; and the suite sees planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewbits import formats, kernels
from fewbits.formats.legacy_affine import Q5_1
from fewbits.testing import check_kernel


@pytest.mark.parametrize("name", sorted(kernels.formats()))
def test_kernel(name: str) -> None:
    check_kernel(formats.get(name))


def test_every_format_has_a_kernel() -> None:
    assert set(formats.ROWS) == kernels.formats()


def on_wide_vectors(call: Callable[..., Any], spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """`call` with a spoilt result on the last instruction set that is available."""

    def spoilt(*arguments: Any, isa: str = "", **options: Any) -> Any:
        found = call(*arguments, isa=isa, **options)
        return spoil(found) if isa == kernels.available()[-1] else found

    return spoilt


def one_bit(encoded: kernels.Encoded) -> kernels.Encoded:
    stored = encoded.stored.copy()
    stored[-1, -1] ^= 1
    return replace(encoded, stored=stored)


def one_unit_in_the_last_place(numbers: Any) -> Any:
    return np.nextafter(numbers, np.float32(np.inf))


def another_sum(encoded: kernels.Encoded) -> kernels.Encoded:
    return replace(encoded, squared_error=encoded.squared_error * (1 + 1e-15) + 1e-300)


@pytest.mark.parametrize(
    ("function", "spoil", "message"),
    [
        ("encode_rows", one_bit, "stores 1 bytes"),
        ("decode_rows", one_unit_in_the_last_place, "decodes other numbers"),
        ("encode_rows", another_sum, "sums errors otherwise"),
    ],
)
def test_a_planted_fault_is_seen(
    function: str, spoil: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, function, on_wide_vectors(getattr(kernels, function), spoil))
    with pytest.raises(AssertionError, match=message):
        check_kernel(formats.get("Q4_K"))


def test_another_candidate_range_is_seen() -> None:
    with pytest.raises(AssertionError, match="that torch does not"):
        check_kernel(replace(Q5_1, even_steps=(62, 64)))
