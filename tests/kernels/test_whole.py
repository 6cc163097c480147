"""Native products in whole numbers are exact: equal to torch's sums, on every instruction set there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.kernels import available
from fewbits.kernels.whole import Rounding, Steps, WholeWeight, added, whole_weight


def drawn(shape: tuple[int, ...], kind: torch.dtype, seed: int) -> torch.Tensor:
    ends = torch.iinfo(kind)
    return torch.randint(ends.min, ends.max + 1, shape, generator=torch.Generator().manual_seed(seed)).to(kind)


def expected(x: torch.Tensor, zero: int, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Sums (samples, ..., rows) by torch's convolution of float64, which has all of them exactly."""
    picture, kernel = (x.double() - zero).movedim(-1, 1), weight.double().movedim(-1, 1)
    found = torch.nn.functional.conv2d(picture, kernel, None, steps.stride, steps.padding, steps.dilation, steps.groups)
    return found.movedim(1, -1).to(torch.int64)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_convolution_on_any_instruction_set(data: Any) -> None:
    isa, kind = data.draw(st.sampled_from(available())), data.draw(st.sampled_from([torch.uint8, torch.int8]))
    groups = data.draw(st.integers(1, 3))
    rows, depth = groups * data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    steps = Steps(data.draw(pair), data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))), data.draw(pair), groups)
    kernel = data.draw(pair)
    x = drawn((data.draw(st.integers(1, 4)), 7, data.draw(st.integers(7, 12)), groups * depth), kind, seed=rows)
    weight, zero = drawn((rows, *kernel, depth), torch.int8, seed=depth), int(drawn((1,), kind, seed=groups))

    found = WholeWeight.of(weight, steps, isa).products(x, zero)

    assert torch.equal(found.to(torch.int64), expected(x, zero, weight, steps))


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("cols", [1, 4, 61, 1200])
def test_numbers_at_their_ends(isa: str, cols: int) -> None:
    for x, w in [(-128, -128), (-128, 127), (127, -128), (127, 127)]:
        inputs, weight = (
            torch.full((3, 1, 1, cols), x, dtype=torch.int8),
            torch.full((17, 1, 1, cols), w, dtype=torch.int8),
        )

        found = WholeWeight.of(weight, isa=isa).products(inputs, 5)

        assert found.unique().tolist() == [cols * (x - 5) * w]


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("tokens", [1, 5, 48, 131])
@pytest.mark.parametrize("signed", [False, True])
def test_codes_are_the_floors_of_scaled_sums(isa: str, tokens: int, signed: bool) -> None:
    x, weight = drawn((tokens, 1, 1, 70), torch.uint8, seed=1), drawn((37, 1, 1, 70), torch.int8, seed=2)
    factor = torch.linspace(1e-4, 2e-3, 37, dtype=torch.float64)
    half = torch.linspace(-9.0, 9.0, 37, dtype=torch.float64)
    zero, low, high = (-7, -128, 100) if signed else (30, 11, 255)

    found = WholeWeight.of(weight, isa=isa).codes(x, 12, Rounding(factor, half, zero, low, high), signed)

    sums = expected(x, 12, weight, Steps()).double()
    wanted = (torch.floor(sums * factor + half) + zero).clamp(low, high)
    assert found.dtype == (torch.int8 if signed else torch.uint8)
    assert torch.equal(found.double(), wanted)
    assert wanted.unique().numel() > 20


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("kinds", [(torch.uint8, torch.int8), (torch.int8, torch.uint8)])
@pytest.mark.parametrize("count", [1, 17, 40_001])
def test_sums_of_two_codes(isa: str, kinds: tuple[torch.dtype, torch.dtype], count: int) -> None:
    both = [drawn((count,), kind, seed=place) for place, kind in enumerate(kinds)]
    zeros, m, signed = (9, -4), (2**21 + 3, 2**22), kinds[0] == torch.int8
    low, high, zero = (-128, 90, -20) if signed else (3, 255, 40)
    rounding = Rounding(torch.tensor(2.0**-24), torch.tensor(0.5 - 2.0**-3), zero, low, high)

    found = added(both, zeros, m, rounding, signed, isa)

    one, other = (each.to(torch.int64) - at for each, at in zip(both, zeros, strict=True))
    sums = (one * m[0] + other * m[1]).double()
    assert torch.equal(found.double(), (torch.floor(sums * 2.0**-24 + 0.375) + zero).clamp(low, high))


def test_the_number_of_threads_changes_nothing() -> None:
    x, weight = drawn((3, 20, 20, 16), torch.uint8, seed=3), drawn((64, 3, 3, 16), torch.int8, seed=4)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(WholeWeight.of(weight, Steps(padding=(1, 1))).products(x, 3))
    torch.set_num_threads(before)

    assert all(torch.equal(each, found[0]) for each in found)


def test_a_weight_is_packed_once_and_anew_when_it_was_written_to() -> None:
    weight = drawn((16, 8), torch.int8, seed=5)
    first = whole_weight(weight)

    assert whole_weight(weight) is first
    weight.add_(1)
    assert whole_weight(weight) is not first


def test_what_would_leave_vectors_empty_is_not_packed() -> None:
    assert whole_weight(drawn((16, 1, 3, 3), torch.int8, seed=6), Steps(groups=16)) is None
    assert whole_weight(drawn((16, 2, 3, 3), torch.int8, seed=6), Steps(groups=2)) is not None


@pytest.mark.parametrize(
    ("steps", "what"),
    [(Steps(groups=2), "groups do not belong"), (Steps(dilation=(9, 1)), "larger than the picture")],
)
def test_what_does_not_fit_is_refused(steps: Steps, what: str) -> None:
    weight = WholeWeight.of(drawn((16, 3, 3, 4), torch.int8, seed=7), steps)

    with pytest.raises((ValueError, RuntimeError), match=what):
        weight.products(drawn((1, 6, 6, 4), torch.int8, seed=8), 0)
