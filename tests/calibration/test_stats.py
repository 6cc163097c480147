"""Statistics: what numpy says of all tokens at once, whatever the pieces and whoever measured them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewbits.calibration import STATS, Hessian
from fewbits.errors import CalibrationError

Doubles = npt.NDArray[np.float64]
PLAIN: dict[str, Callable[[Doubles], Doubles]] = {
    "absmax": lambda x: np.abs(x).max(0),
    "minmax": lambda x: np.stack([x.min(0), x.max(0)]),
    "mean_square": lambda x: (x * x).mean(0),
    "hessian": lambda x: np.einsum("ti,tj->ij", x, x) / len(x),
}


def tokens(count: int, cols: int, seed: int) -> torch.Tensor:
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, cols + 1)


def test_every_statistic_has_its_plain_formula() -> None:
    assert set(PLAIN) == set(STATS)


@pytest.mark.parametrize("name", PLAIN)
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5), here=st.integers(0, 5), seed=st.integers(0, 99))
def test_pieces_and_merging_change_nothing(name: str, pieces: list[int], here: int, seed: int) -> None:
    x = [tokens(count, 7, seed + i) for i, count in enumerate(pieces)]
    one, other = STATS.get(name)(7), STATS.get(name)(7)
    for i, piece in enumerate(x):
        (one if i < here else other).update(piece[None] if i % 2 else piece)

    one.merge(other)  # type: ignore[arg-type]

    assert one.tokens == sum(pieces)
    np.testing.assert_allclose(one.value.numpy(), PLAIN[name](torch.cat(x).double().numpy()), rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_seen_is_no_value(name: str) -> None:
    with pytest.raises(CalibrationError, match="no token"):
        _ = STATS.get(name)(3).value


def test_another_width_is_refused() -> None:
    with pytest.raises(CalibrationError, match="4 columns"):
        Hessian(3).update(torch.ones(2, 4))
