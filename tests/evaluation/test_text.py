"""Which tokens a model sees and which are scored: properties of the windows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import EvaluationError
from fewbits.evaluation.text import cut_windows, evaluation_windows, read_text, scored_positions

IDS = st.lists(st.integers(2, 99), max_size=300)
CONTEXT = st.integers(8, 40)


@given(IDS, CONTEXT)
def test_windows_without_a_start_token_are_the_text(ids: list[int], context: int) -> None:
    windows = cut_windows(ids, context, None)
    assert windows.shape == (len(ids) // context, context)
    assert windows.reshape(-1).tolist() == ids[: windows.size]


@given(IDS, CONTEXT)
def test_a_start_token_precedes_the_text_and_heads_each_window(ids: list[int], context: int) -> None:
    windows = cut_windows(ids, context, 1)
    assert len(windows) == (len(ids) + 1) // context
    dressed = [1, *ids]
    for number, window in enumerate(windows.tolist()):
        assert window[0] == 1
        assert window[1:] == dressed[number * context + 1 : (number + 1) * context]


@given(st.integers(8, 5000))
def test_every_scored_token_lies_in_the_second_half(context: int) -> None:
    scored = scored_positions(context)
    targets = [position + 1 for position in scored]
    assert targets == [t for t in range(context) if t > context // 2]


@given(IDS, CONTEXT, st.integers(0, 400), st.sampled_from([None, 1]))
def test_max_tokens_bounds_what_is_read(ids: list[int], context: int, most: int, start: int | None) -> None:
    used = min(most, len(ids) + (start is not None))
    if used // context < 2:
        with pytest.raises(EvaluationError, match=f"windows of {context} need {2 * context}"):
            evaluation_windows(ids, context, start, max_tokens=most, source="text")
        return
    windows = evaluation_windows(ids, context, start, max_tokens=most, source="text")
    assert windows.size == used // context * context
    assert np.array_equal(windows, cut_windows(ids, context, start)[: len(windows)])


def test_the_remedy_of_a_short_text_works() -> None:
    ids = list(range(100))
    with pytest.raises(EvaluationError, match=r"100 tokens, but 2 windows of 64 need 128.*context of at most 50"):
        evaluation_windows(ids, 64, None, max_tokens=None, source="text")
    assert len(evaluation_windows(ids, 50, None, max_tokens=None, source="text")) == 2


def test_a_context_of_no_use_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 8"):
        evaluation_windows(list(range(100)), 7, None, max_tokens=None, source="text")


def test_the_text_keeps_its_characters_and_its_hash(tmp_path: Path) -> None:
    raw = "Zürich\r\n量子化\n".encode()
    path = tmp_path / "text.txt"
    path.write_bytes(raw)
    text = read_text(path)
    assert text.content == "Zürich\r\n量子化\n"
    assert text.sha256 == hashlib.sha256(raw).hexdigest()
