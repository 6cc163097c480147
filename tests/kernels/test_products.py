"""Products of columns in bfloat16: exact products, summed in float32 in one order, wherever columns are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewbits.calibration.stats import Hessian
from fewbits.kernels import products
from fewbits.kernels.module import native_module


def drawn(tokens: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, cols, generator=torch.Generator().manual_seed(seed)).bfloat16()


def native(x: torch.Tensor, *cuts: int) -> torch.Tensor:
    """The upper triangle of the sums, columns taken from cut to cut."""
    sums = torch.zeros(x.shape[1], x.shape[1])
    for start, stop in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        if not products.add_products(x, slice(start, stop), sums):
            pytest.skip("this processor does not multiply bfloat16")
    return sums.triu()


@given(tokens=st.integers(0, 40), cols=st.integers(1, 130), seed=st.integers(0, 9))
def test_sums_are_those_of_doubles(tokens: int, cols: int, seed: int) -> None:
    x = drawn(tokens, cols, seed)
    exact = (x.double().T @ x.double()).triu()
    size = x.double().square().sum(0).sqrt()

    assert (native(x) - exact).abs().le(1e-6 * size[:, None] * size + 1e-30).all()


@pytest.mark.parametrize("tokens", [1, 7, 1023, 1024, 1025, 2500])
def test_many_tokens(tokens: int) -> None:
    x = drawn(tokens, 70, tokens)
    exact = (x.double().T @ x.double()).triu().float()

    torch.testing.assert_close(native(x), exact, rtol=2e-6, atol=2e-6 * tokens)


@pytest.mark.parametrize("cuts", [(1,), (48,), (8, 9, 130), (64, 128, 192)])
def test_where_columns_are_cut_changes_nothing(cuts: tuple[int, ...]) -> None:
    x = drawn(300, 200)

    assert torch.equal(native(x, *cuts), native(x))


def test_sums_go_on() -> None:
    x, sums = drawn(64, 50), torch.ones(50, 50)
    if not products.add_products(x, slice(0, 50), sums):
        pytest.skip("this processor does not multiply bfloat16")

    assert torch.equal((sums - 1).triu().round(decimals=3), native(x).round(decimals=3))


def test_a_hessian_is_the_same_with_and_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> torch.Tensor:
        hessian = Hessian(90)
        for seed in range(3):
            x = drawn(100, 90, seed)
            for start in range(0, 90, 32):
                hessian.add_columns(x, slice(start, start + 32))
            hessian.tokens += 100
        hessian.mirror()
        return hessian.value

    quick = measured()
    monkeypatch.setattr("fewbits.calibration.stats.add_products", lambda *_: False)

    torch.testing.assert_close(quick, measured(), rtol=1e-5, atol=1e-6)
    assert torch.equal(quick, quick.T)


def test_other_numbers_are_left_to_torch() -> None:
    assert not products.add_products(torch.ones(2, 3), slice(0, 3), torch.zeros(3, 3))


@pytest.mark.parametrize(("first", "last", "shape"), [(2, 1, (4, 4)), (-1, 2, (4, 4)), (0, 5, (4, 4)), (0, 4, (4, 3))])
def test_columns_that_are_not_there_are_refused(first: int, last: int, shape: tuple[int, int]) -> None:
    x = np.zeros((3, 4), np.uint16)

    with pytest.raises(ValueError, match=r"columns"):
        native_module().add_products(x, first, last, np.zeros(shape, np.float32))
