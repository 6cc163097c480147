"""Products of packed weights: right, and the same in every bit on every instruction set, whatever is done together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from fewbits import formats, kernels
from fewbits.kernels.module import native_module
from references.rounded_products import bfloat_product, product

ROWS = (1, 7, 8, 15, 16, 17, 37, 64)
TOKENS = (1, 2, 3, 5, 8, 9, 70)
TYPES = sorted(native_module().packed_types())


def stored_rows(name: str, rows: int, cols: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Rows of random weights as the format stores them, some of them large and one of zeros."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(rows, cols)).astype(np.float32) * np.exp(rng.normal(size=(rows, 1))).astype(np.float32)
    w[rows // 2] = 0
    return encoded(name, w)


def encoded(name: str, w: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Rows of weights as the format stores them."""
    row_bytes = formats.get(name).bits(1, w.shape[1]) // 8
    return kernels.encode_rows(name, w.view(np.uint8), "F32", row_bytes).stored


def multiply(name: str, stored: npt.NDArray[np.uint8], x: npt.NDArray[np.float32], isa: str) -> npt.NDArray[np.float32]:
    """x (tokens, cols) times the rows of `stored`, packed for `isa`."""
    native = native_module()
    panels = np.empty(native.panels_size(name, len(stored), x.shape[1], isa), np.uint8)
    native.pack_panels(name, stored, x.shape[1], panels, isa)
    out = np.full((len(x), len(stored)), np.nan, np.float32)
    native.multiply_panels(name, panels, x, out, isa)
    return out


@pytest.mark.parametrize("name", TYPES)
def test_the_scalar_product_is_that_of_the_decoded_weights(name: str) -> None:
    """Every scale, minimum and code is where it belongs; the slow reference knows none of them."""
    cols = 512
    stored = stored_rows(name, 24, cols)
    x = np.random.default_rng(1).normal(size=(5, cols)).astype(np.float32)
    x[2, 32:64] = 0
    expected = product(kernels.decode_rows(name, stored, cols), x)
    size = np.abs(expected).max()
    np.testing.assert_allclose(multiply(name, stored, x, "scalar"), expected, rtol=0, atol=2e-5 * size)


@pytest.mark.parametrize("isa", [isa for isa in native_module().available() if isa != "scalar"])
@pytest.mark.parametrize("name", TYPES)
def test_instruction_sets_agree_in_every_bit(name: str, isa: str) -> None:
    """Odd numbers of rows and of tokens, and columns that are no multiple of what is unpacked at a time."""
    span = native_module().packed_types()[name]
    for rows in ROWS:
        cols = 768 if span > 32 else 288
        stored = stored_rows(name, rows, cols, seed=rows)
        x = np.random.default_rng(rows).normal(size=(max(TOKENS), cols)).astype(np.float32)
        expected = multiply(name, stored, x, "scalar")
        for tokens in TOKENS:
            assert np.array_equal(multiply(name, stored, x[:tokens], isa), expected[:tokens]), (rows, tokens)


@pytest.mark.parametrize("name", TYPES)
def test_the_largest_codes_do_not_overflow(name: str) -> None:
    """Every byte of codes at its largest, against numbers that are all 127 and all -127."""
    native, cols = native_module(), 256
    stored = stored_rows(name, 16, cols)
    w = kernels.decode_rows(name, stored, cols)
    x = np.where(w[:4] >= 0, 1, -1).astype(np.float32)  # every product has the same sign
    expected = multiply(name, stored, x, "scalar")
    for isa in native.available():
        assert np.array_equal(multiply(name, stored, x, isa), expected)


@pytest.mark.parametrize("isa", native_module().available())
@pytest.mark.parametrize("numbers", ["F32", "F16", "BF16"])
def test_products_of_plain_numbers(numbers: str, isa: str) -> None:
    """Sixteen lanes of sums, the same on every instruction set, for rows whose end is no whole sixteen."""
    rng = np.random.default_rng(2)
    for rows, cols, tokens in ((1, 16, 1), (5, 40, 4), (9, 33, 7), (4, 100, 1)):
        w = rng.normal(size=(rows, cols)).astype(np.float32)
        stored = encoded(numbers, w)
        x = rng.normal(size=(tokens, cols)).astype(np.float32)
        expected = x.astype(np.float64) @ kernels.decode_rows(numbers, stored, cols).astype(np.float64).T
        results = {}
        for each in {isa, "scalar"}:
            out = np.empty((tokens, rows), np.float32)
            native_module().multiply_plain(numbers, stored, x, out, each)
            results[each] = out
        np.testing.assert_allclose(results[isa], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert np.array_equal(results[isa], results["scalar"])


@pytest.mark.parametrize("isa", native_module().available())
@pytest.mark.parametrize("numbers", ["F16", "BF16"])
def test_products_of_bfloat16(numbers: str, isa: str) -> None:
    """Weights and numbers in bfloat16, the same bits on every instruction set and for any number of tokens."""
    rng = np.random.default_rng(3)
    for rows, cols in ((1, 32), (5, 40), (66, 33), (7, 2080)):
        stored = encoded(numbers, rng.normal(size=(rows, cols)).astype(np.float32))
        x = rng.normal(size=(13, cols)).astype(np.float32)
        expected = bfloat_product(kernels.decode_rows(numbers, stored, cols), x)
        results = {}
        for each in {isa, "scalar"}:
            results[each] = np.empty((13, rows), np.float32)
            native_module().multiply_bfloats(numbers, stored, x, results[each], each)
        np.testing.assert_allclose(results[isa], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert np.array_equal(results[isa], results["scalar"])
        for tokens in (1, 2, 5):
            some = np.empty((tokens, rows), np.float32)
            native_module().multiply_bfloats(numbers, stored, x[:tokens], some, isa)
            assert np.array_equal(some, results[isa][:tokens]), (rows, cols, tokens)
