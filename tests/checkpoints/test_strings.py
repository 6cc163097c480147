"""Vocabularies in a GGUF header: found natively, equal to a loop that reads one string after another."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.checkpoints.gguf_values import Cursor
from fewbits.errors import CheckpointError


def cursor(data: bytes) -> Cursor:
    return Cursor(Path("model.gguf"), np.frombuffer(data, np.uint8))


def packed(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@given(st.lists(st.text()), st.binary(max_size=9))
def test_strings_come_back_and_the_cursor_stands_behind_them(texts: list[str], after: bytes) -> None:
    stored = packed([text.encode() for text in texts])
    at = cursor(stored + after)

    found = at.strings(len(texts), "words")

    assert list(found) == texts
    assert [found[i] for i in range(len(found))] == texts
    assert found[1:] == texts[1:]
    assert found == texts
    assert found.packed() == stored
    assert at.position == len(stored)


# Bytes near the borders of UTF-8: first bytes, continuations, surrogates, overlong forms, beyond the last code point.
BORDERS = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5]


@given(st.lists(st.sampled_from(BORDERS), max_size=6).map(bytes) | st.binary(max_size=6))
def test_what_python_cannot_decode_is_refused(text: bytes) -> None:
    at = cursor(packed([b"first", text]))
    if is_utf8(text):
        assert at.strings(2, "words")[1] == text.decode()
        return
    with pytest.raises(CheckpointError, match=r"string 1 of 2 of words .* is not UTF-8"):
        at.strings(2, "words")


@pytest.mark.parametrize("length", [6, 2**31, 2**63, 2**64 - 1])
def test_a_string_longer_than_the_file_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError, match="string 0 of 1 of words does not end"):
        cursor(struct.pack("<Q", length) + b"short").strings(1, "words")


def test_two_arrays_are_equal_when_their_bytes_are() -> None:
    one, two = packed([b"a", b"bc"]), packed([b"ab", b"c"])

    assert cursor(one).strings(2, "words") == cursor(one).strings(2, "words")
    assert cursor(one).strings(2, "words") != cursor(two).strings(2, "words")
