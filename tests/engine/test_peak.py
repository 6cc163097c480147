"""What a processor multiplies in registers: as many products as are said, each of the right numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits.kernels.module import native_module

USED = {"scalar": 64, "avx2": 32, "avx512": 64, "neon": 16}
"""Codes that one vector has."""


@pytest.mark.parametrize("isa", native_module().available())
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_products_in_registers_are_counted_and_right(isa: str, rounds: int) -> None:
    codes = np.random.default_rng(3).integers(0, 16, 64).astype(np.uint8)
    x = np.array([127, -3, 50, -126], np.int8)

    count, total = native_module().multiply_registers(rounds, codes, x, isa)

    used = USED[isa]
    once = int((codes[:used].reshape(-1, 4).astype(int) * x).sum())
    assert count % (used * max(rounds, 1)) == 0
    assert (count > 0) == (rounds > 0)
    assert total == count // used * once


@pytest.mark.parametrize(("codes", "numbers"), [(63, 4), (64, 3)])
def test_other_counts_are_refused(codes: int, numbers: int) -> None:
    with pytest.raises(ValueError, match="64 codes and 4 numbers"):
        native_module().multiply_registers(1, np.zeros(codes, np.uint8), np.zeros(numbers, np.int8))
