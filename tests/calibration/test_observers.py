"""Observers: the ranges that slow formulas find on the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewbits.calibration import OBSERVERS, STATS, Range
from fewbits.calibration.observers import Entropy, Percentile, SquaredError, divergence, rounding_error
from fewbits.errors import CalibrationError
from references import observers as slow

CLOSE = 2.0**-10
"""Numbers of the histogram are within this of those that were counted."""


def inputs(kind: str, *, seed: int = 0, windows: int = 6, tokens: int = 40, cols: int = 16) -> torch.Tensor:
    """(windows, tokens, cols): numbers of both signs with outliers, of one sign, of few values, or nearly all zero."""
    normal = torch.randn(windows, tokens, cols, generator=torch.Generator().manual_seed(seed))
    outliers = torch.where(normal > 2.8, normal * 6, normal) + 0.3
    return {
        "outliers": outliers,
        "positive": outliers.abs(),
        "relu": outliers.clamp(min=0),
        "negative": -outliers.abs() * 1e-3,
        "few": (normal * 2).round() * 0.25,
        "constant": torch.full_like(normal, 2.5),
    }[kind]


KINDS = ("outliers", "positive", "relu", "negative", "few", "constant")


def observed(name: str, x: torch.Tensor, *, bits: int = 8, symmetric: bool = False) -> Range:
    observer = OBSERVERS.get(name)()
    stat = STATS.get(observer.needs)(x.shape[-1])
    stat.update(x)
    return observer.range(stat.value, bits=bits, symmetric=symmetric)


def with_zero(low: float, high: float, *, symmetric: bool) -> tuple[float, float]:
    low, high = min(low, 0.0), max(high, 0.0)
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["minmax", "moving_average"])
def test_extremes_and_their_average(name: str, kind: str, symmetric: bool) -> None:
    x = inputs(kind)
    found = observed(name, x, symmetric=symmetric)

    reference = {"minmax": slow.extremes, "moving_average": slow.moving_average}[name]
    wanted = with_zero(*reference(list(x.double().numpy())), symmetric=symmetric)
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_percentiles(kind: str, share: float) -> None:
    x = inputs(kind)
    numbers, stat = x.double().numpy().ravel(), STATS.get("histogram")(x.shape[-1])
    stat.update(x)

    both = Percentile(share).range(stat.value, symmetric=False)
    even = Percentile(share).range(stat.value, symmetric=True)

    outside = (1 - share) / 2
    low, high = slow.percentile(numbers, outside), slow.percentile(numbers, 1 - outside)
    assert (both.low, both.high) == pytest.approx(with_zero(low, high, symmetric=False), rel=CLOSE, abs=1e-30)
    assert (-even.low, even.high) == pytest.approx((slow.percentile(np.abs(numbers), share),) * 2, rel=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_migacz_threshold(kind: str) -> None:
    x = inputs(kind, windows=2)
    stat = STATS.get("histogram")(x.shape[-1])
    stat.update(x)
    bins, bits = 96, 5

    found = Entropy(bins).range(stat.value, bits=bits, symmetric=True)

    # Of the numbers as the histogram has them: bins of equal width cut between those of the statistic.
    numbers, counts = stat.value.numpy()
    sizes = np.repeat(np.abs(numbers), counts.astype(int))
    wanted = slow.entropy_threshold(sizes, 2 ** (bits - 1), bins)
    assert (-found.low, found.high) == pytest.approx((wanted, wanted), rel=1e-12)


@given(
    counts=st.lists(st.sampled_from([0, 0, 0, 1, 2, 7, 40]), min_size=6, max_size=30).filter(any),
    codes=st.integers(2, 6),
    share=st.floats(0, 1),
)
def test_the_divergence_is_migacz_own_with_gaps_and_all(counts: list[int], codes: int, share: float) -> None:
    kept = codes + int(share * (len(counts) - codes))

    found = divergence(np.array(counts, float), kept, codes)

    assert found == pytest.approx(slow.divergence(counts, kept, codes), rel=1e-9, abs=1e-12)


def test_entropy_clips_outliers_and_keeps_one_sided_numbers_one_sided() -> None:
    both, relu = observed("entropy", inputs("outliers")), observed("entropy", inputs("relu"))
    extremes = observed("minmax", inputs("outliers"))

    assert both.high < 0.8 * extremes.high
    assert both.low >= extremes.low
    assert relu.low == 0.0
    assert observed("entropy", inputs("constant") * 0) == Range(0.0, 0.0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_squared_error_is_that_of_the_numbers_and_the_least(kind: str, bits: int, symmetric: bool) -> None:
    x = inputs(kind, windows=2)
    numbers = x.double().numpy().ravel()

    found = observed("mse", x, bits=bits, symmetric=symmetric)

    def error(range_: Range) -> float:
        return slow.squared_error(numbers, range_.low, range_.high, bits, symmetric=symmetric)

    values, counts = np.unique(numbers, return_counts=True)
    fast = rounding_error(values, counts.astype(float), found, bits, symmetric=symmetric)
    assert fast == pytest.approx(error(found), rel=1e-9, abs=1e-12)
    whole = observed("minmax", x, symmetric=symmetric)
    others = [observed(name, x, bits=bits, symmetric=symmetric) for name in OBSERVERS if kind != "few"]
    others += [Range(whole.low * share / 20, whole.high * share / 20) for share in range(1, 20)]
    assert all(error(found) <= error(other) * 1.02 + 1e-9 for other in others)


def test_each_side_is_searched_alone() -> None:
    x = torch.cat([inputs("outliers").flatten(), torch.full((400,), -1.0), torch.full((3,), 14.0)])[:, None]
    numbers, counts = np.unique(x.double().numpy(), return_counts=True)
    whole = observed("minmax", x)

    def error(range_: Range) -> float:
        return rounding_error(numbers, counts.astype(float), range_, 4, symmetric=False)

    together = min(error(Range(whole.low * share / 100, whole.high * share / 100)) for share in range(1, 101))
    assert error(observed("mse", x, bits=4)) < 0.95 * together


@pytest.mark.parametrize("name", OBSERVERS)
def test_zero_is_always_within_and_symmetric_is_symmetric(name: str) -> None:
    for kind in KINDS:
        both, even = (observed(name, inputs(kind), symmetric=symmetric) for symmetric in (False, True))
        assert both.low <= 0.0 <= both.high
        assert even.low == -even.high


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_refused(name: str, bad: float) -> None:
    x = inputs("outliers")
    x[1, 2, 3] = bad

    with pytest.raises(CalibrationError, match="NaN or infinite"):
        observed(name, x)


@pytest.mark.parametrize("symmetric", [False, True])
def test_steps_reach_both_ends_and_have_a_code_for_zero(symmetric: bool) -> None:
    scale, zero = Range(-1.0, 2.0).steps(8, symmetric=symmetric)
    codes = np.arange(int(symmetric), 256)

    values = scale * (codes - zero)

    assert values[zero - int(symmetric)] == 0.0
    assert values[-1] == pytest.approx(2.0, abs=scale)
    assert values[0] == pytest.approx(-2.0 if symmetric else -1.0, abs=scale)
    assert Range(0.0, 0.0).steps(8, symmetric=symmetric)[0] == 1.0


def test_an_unknown_observer_names_the_known() -> None:
    with pytest.raises(CalibrationError, match=r"did you mean 'percentile'"):
        OBSERVERS.get("percentiles")


def test_fewer_tries_are_fewer_candidates() -> None:
    x = inputs("outliers")
    stat = STATS.get("histogram")(x.shape[-1])
    stat.update(x)

    assert SquaredError(tries=1).range(stat.value) == observed("minmax", x)
