"""Text out of tokens: nothing half a character, nothing of a stop string, and the same however the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fewbits.engine.stream import StopStrings, TextStream
from fewbits.errors import EngineError

LETTERS = "abcé€🦊\n "
TEXTS = st.text(alphabet=LETTERS, max_size=60) | st.text(alphabet="ab", max_size=60)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4) | st.text(LETTERS, min_size=1, max_size=3), max_size=4)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(a, len(data)) for a in at), len(data)]
    return [data[first:last] for first, last in pairwise(edges)]


def up_to_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Character by character: the first stop string that is complete, the longest where several are at once."""
    for end in range(1, len(text) + 1):
        found = [each for each in stops if text[:end].endswith(each)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@example("aab", ["aab"], [1, 2])
@example("abac", ["abab", "ac"], [1, 2, 3])
@given(TEXTS, STOPS, st.lists(st.integers(0, 200), max_size=30))
def test_what_is_written_does_not_depend_on_how_bytes_arrive(text: str, stops: list[str], at: list[int]) -> None:
    stream, shown = TextStream(stops=stops), ""
    expected, stop = up_to_stop(text, stops)

    for piece in cut(text.encode(), at):
        shown += stream.add(piece)
        assert expected.startswith(shown)  # nothing is taken back
    shown += stream.finish()

    assert (shown, stream.text, stream.stopped_by) == (expected, expected, stop)


@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_has_to_be(text: str, stops: list[str]) -> None:
    stream = StopStrings(stops)
    shown = stream.add(text)

    if stream.found is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@given(TEXTS.filter(bool), st.integers(1, 3))
def test_an_unfinished_character_is_never_shown(text: str, missing: int) -> None:
    data = text.encode()[:-missing]
    stream = TextStream()

    shown = "".join(stream.add(bytes([byte])) for byte in data) + stream.finish()

    assert shown == data.decode("utf-8", "ignore")
    assert "\ufffd" not in shown


def test_bytes_that_are_no_character_are_marked() -> None:
    stream = TextStream()

    assert stream.add(b"a\xff\xe2\x82") == "a\ufffd"
    assert stream.add(b"b") == "\ufffdb"


def test_the_space_of_the_tokenizer_is_left_out_once() -> None:
    assert [TextStream(strip=True).add(each) for each in (b" a", b"  a", b"a", b"")] == ["a", " a", "a", ""]
    stream = TextStream(strip=True)
    assert [stream.add(b""), stream.add(b" "), stream.add(b" b")] == ["", "", " b"]


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(stops=["END"])

    assert [stream.add(b"textEN"), stream.add(b"Dmore"), stream.add(b"more"), stream.finish()] == ["text", "", "", ""]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(EngineError, match="a stop string is empty"):
        TextStream(stops=["a", ""])
