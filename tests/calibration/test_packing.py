"""Windows are cut from all over a text, evenly, and nothing is lost between them but less than a window."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fewbits.calibration.packing import apportioned, even_choice, evenly_begun, packed, thinned

PIECE = 4096


@given(total=st.integers(0, 60), wanted=st.integers(1, 70), seed=st.integers(0, 99))
def test_an_even_choice_takes_one_of_each_stretch(total: int, wanted: int, seed: int) -> None:
    chosen = even_choice(total, wanted, random.Random(seed))

    assert len(chosen) == min(wanted, total)
    assert chosen == sorted(set(chosen))
    for i, number in enumerate(chosen):
        assert i * total // len(chosen) <= number < (i + 1) * total // len(chosen)


@given(size=st.integers(0, 99), length=st.integers(1, 12), seed=st.integers(0, 99))
def test_packing_loses_less_than_a_window(size: int, length: int, seed: int) -> None:
    windows = packed(np.arange(size), length, None, random.Random(seed))

    assert windows.shape == (size // length, length)
    assert windows.size == 0 or windows[0, 0] <= size % length
    assert (np.diff(windows.ravel()) == 1).all()


def test_what_is_left_over_is_left_out_at_either_end() -> None:
    assert {int(packed(np.arange(10), 7, None, random.Random(seed))[0, 0]) for seed in range(40)} == {0, 1, 2, 3}


@given(
    wanted=st.integers(0, 50), parts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=5)
)
def test_windows_are_apportioned_by_share_until_a_part_has_no_more(wanted: int, parts: list[tuple[int, int]]) -> None:
    shares, available = [share / 10 for share, _ in parts], [count for _, count in parts]

    counts = apportioned(wanted, shares, available)

    assert sum(counts) == min(wanted, sum(available))
    assert all(count <= most for count, most in zip(counts, available, strict=True))
    free = [i for i, count in enumerate(counts) if count < available[i]]
    for i in free:
        fair = wanted * shares[i] / sum(shares)
        assert counts[i] > fair - 2.5


@given(count=st.integers(1, 70), first=st.integers(1, 70))
def test_a_beginning_is_spread_over_all(count: int, first: int) -> None:
    order = evenly_begun(count)
    places = sorted(order[:first])

    assert sorted(order) == list(range(count))
    assert np.diff([-1, *places, count]).max() <= 4 * count / min(first, count) + 1


def test_a_long_text_is_thinned_before_it_is_encoded() -> None:
    text = "\n".join(f"line {i}" for i in range(50_000))
    pieces = thinned([text], len(text) // 8, PIECE, random.Random(3))

    assert 0.8 * len(text) / 8 < sum(map(len, pieces)) < 1.2 * len(text) / 8
    assert all(isinstance(piece, str) and piece in text and piece.endswith("\n") for piece in pieces[:-1])
    places = [text.index(str(piece)) for piece in pieces]
    assert places == sorted(places)
    assert max(np.diff([0, *places, len(text)])) < 2 * 8 * 1.1 * PIECE
