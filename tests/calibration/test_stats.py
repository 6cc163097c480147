"""Statistics: what numpy says of all tokens at once, whatever the pieces, whoever measured them, in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.calibration import STATS, Hessian, MeanSquare, Stat, merged
from fewbits.calibration.histogram import Histogram
from fewbits.errors import CalibrationError

Doubles = npt.NDArray[np.float64]
COLS = 7


def flat(x: Doubles) -> Doubles:
    return x.reshape(-1, x.shape[-1])


def counted(x: Doubles) -> Doubles:
    """Numbers rounded to ten significant bits, and how often each occurs; the smallest and the largest as they are."""
    fractions, exponents = np.frexp(np.sort(x.ravel()))
    numbers, counts = np.unique(
        np.ldexp(np.floor(np.abs(fractions) * 1024 + 0.5) * np.sign(fractions) / 1024, exponents), return_counts=True
    )
    numbers[0], numbers[-1] = x.min(), x.max()
    return np.stack([numbers, counts])


PLAIN: dict[str, Callable[[Doubles], Doubles]] = {
    "absmax": lambda x: np.abs(flat(x)).max(0),
    "minmax": lambda x: np.stack([flat(x).min(0), flat(x).max(0)]),
    "running_average": lambda x: flat(x).mean(0),
    "histogram": counted,
    "sample_range": lambda x: np.array([x.min((1, 2)).mean(), x.max((1, 2)).mean()]),
    "mean_square": lambda x: (flat(x) ** 2).mean(0),
    "hessian": lambda x: np.einsum("ti,tj->ij", flat(x), flat(x)) / len(flat(x)),
}


def inputs(windows: int, seed: int) -> torch.Tensor:
    """(windows, tokens, COLS)"""
    x = torch.randn(windows, 4, COLS, generator=torch.Generator().manual_seed(seed))
    return x * torch.arange(1, COLS + 1) + 0.5


def seen(name: str, *pieces: torch.Tensor) -> Any:
    stat = STATS.get(name)(COLS)
    for piece in pieces:
        stat.update(piece)
    return stat


def assert_same(one: Stat[Any], other: Stat[Any]) -> None:
    assert one.tokens == other.tokens
    np.testing.assert_allclose(one.value.numpy(), other.value.numpy(), rtol=2e-5, atol=1e-4)


def test_every_statistic_has_its_plain_formula() -> None:
    assert set(PLAIN) == set(STATS)


@pytest.mark.parametrize("name", PLAIN)
@settings(deadline=None, max_examples=20)
@given(windows=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_value_is_that_of_the_plain_formula(name: str, windows: int, seed: int) -> None:
    x = inputs(windows, seed)

    np.testing.assert_allclose(seen(name, x).value.numpy(), PLAIN[name](x.double().numpy()), rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), here=st.integers(0, 5), seed=st.integers(0, 99))
def test_pieces_and_merging_change_nothing(name: str, cuts: list[int], here: int, seed: int) -> None:
    x = inputs(12, seed)
    edges = [0, *sorted(cuts), 12]
    pieces = [x[low:high] for low, high in pairwise(edges) if high > low]
    at_once, one, other = seen(name, x), seen(name, *pieces[:here]), seen(name, *pieces[here:])
    back, forth = seen(name, *pieces[here:]), seen(name, *pieces[:here])

    assert_same(seen(name, *pieces), at_once)
    one.merge(other)
    back.merge(forth)

    assert_same(one, at_once)
    assert_same(back, at_once)


@pytest.mark.parametrize("name", ["absmax", "minmax", "histogram"])
def test_what_is_counted_or_compared_is_the_same_to_the_bit_in_any_order(name: str) -> None:
    x = inputs(12, 5)

    assert torch.equal(seen(name, x[7:], x[:7]).value, seen(name, *x.split(1)).value)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_tree_merges_all_of_its_parts_always_in_the_same_order(name: str, count: int) -> None:
    def parts() -> list[Any]:
        return [seen(name, piece) for piece in inputs(count, 3).split(1)]

    one, two = merged(parts()), merged(parts())

    assert_same(one, seen(name, inputs(count, 3)))
    assert torch.equal(one.value, two.value)


def test_the_tree_is_one_of_pairs() -> None:
    class Spelled:
        tokens = 0
        value = torch.zeros(0)

        def __init__(self, word: str) -> None:
            self.word = word

        def update(self, x: torch.Tensor) -> None: ...

        def merge(self, other: Spelled) -> None:
            self.word = f"({self.word}{other.word})"

    assert merged([Spelled(letter) for letter in "abcdefg"]).word == "(((ab)(cd))((ef)g))"
    with pytest.raises(CalibrationError, match="no statistics"):
        merged(list[MeanSquare]())


def test_two_dimensions_are_tokens_one_sample_each() -> None:
    x = inputs(3, 1).flatten(0, 1)

    assert_same(seen("sample_range", x), seen("sample_range", x[:, None]))
    assert_same(seen("hessian", x), seen("hessian", x[None]))


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_seen_is_no_value(name: str) -> None:
    with pytest.raises(CalibrationError, match="no token"):
        _ = STATS.get(name)(3).value
    with pytest.raises(CalibrationError, match="no token"):
        _ = seen(name, torch.empty(0, COLS)).value


def test_another_width_is_refused() -> None:
    with pytest.raises(CalibrationError, match="4 columns"):
        Hessian(3).update(torch.ones(2, 4))


def test_the_sums_of_squares_are_there_for_importance_matrices() -> None:
    x = inputs(2, 8)

    np.testing.assert_allclose(seen("mean_square", x).sums.numpy(), (flat(x.double().numpy()) ** 2).sum(0))
    assert MeanSquare(2).sums.tolist() == [0.0, 0.0]


def numbers_of_every_size() -> Iterator[float]:
    for exponent in range(-140, 127, 13):
        yield from (1.37 * 2.0**exponent, -1.71 * 2.0**exponent)
    yield from (0.0, -0.0, 1e-45, float(np.finfo(np.float32).max), -float(np.finfo(np.float32).max))


def test_bins_are_narrow_at_any_size_of_number() -> None:
    x = torch.tensor(list(numbers_of_every_size()), dtype=torch.float32)[:, None]
    stat = Histogram(1)
    stat.update(x)

    numbers, counts = stat.value.numpy()

    wanted = np.repeat(numbers, counts.astype(int))
    ordered = np.sort(x.double().numpy().ravel())
    np.testing.assert_allclose(wanted, ordered, rtol=2**-10, atol=2.0**-130)
    assert (numbers[0], numbers[-1]) == (ordered[0], ordered[-1])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_histogram_of_numbers_that_are_none_is_refused(bad: float) -> None:
    stat = Histogram(1)
    stat.update(torch.tensor([[1.0], [bad]]))

    with pytest.raises(CalibrationError, match="NaN or infinite"):
        _ = stat.value
