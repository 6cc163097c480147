"""A conversation's tokens: always those of its text, and the ones that the cache knows wherever they mean it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewbits.engine.spoken import Spoken
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


@cache
def once_read() -> Vocabulary:
    return read_vocabulary(POCKET)


@cache
def letters() -> dict[bytes, int]:
    """One token per byte: never what the tokenizer would choose."""
    pieces = {once_read().piece(n): n for n in range(len(once_read().tokens))}
    return {piece: n for piece, n in pieces.items() if len(piece) == 1}


@pytest.fixture(scope="module")
def tokens() -> Vocabulary:
    return once_read()


def meaning(vocabulary: Vocabulary, ids: list[int]) -> str:
    return b"".join(map(vocabulary.piece, ids)).decode()


@settings(max_examples=150, deadline=None)
@example("one", "é", "è", False, 0)
@example("one", "a🦊", "🦉", False, 1)
@given(
    st.text("ab éè🦊🦉\n", max_size=12),
    st.text("ab éè🦊🦉\n", max_size=12),
    st.text("ab éè🦊🦉\n", max_size=12),
    st.booleans(),
    st.integers(0, 12),
)
def test_tokens_always_mean_their_text(first: str, reply: str, rest: str, same: bool, cut: int) -> None:
    vocabulary = once_read()
    spelled = [letters()[bytes([byte])] for byte in reply.encode()]
    spoken = Spoken(first, vocabulary.encode(first), spelled)
    text = first + (reply if same else reply[:cut]) + rest

    ids = spoken.encode(text, vocabulary)

    assert meaning(vocabulary, ids) == text
    if first:
        known = [*spoken.prompt, *(spelled if same else spelled[: len(reply[:cut].encode())])]
        assert ids[: len(known)] == known


def test_another_text_is_encoded_anew(tokens: Vocabulary) -> None:
    spoken = Spoken("one two", tokens.encode("one two"), tokens.encode(" three"))

    assert spoken.encode("other", tokens) == tokens.encode("other")
    assert Spoken().encode("one", tokens) == tokens.encode("one")


def test_a_space_that_sentencepiece_would_add_is_not_added(pocket: Path) -> None:
    class Pieces(Vocabulary):
        strips_first_space = True  # type: ignore[assignment]

    own = read_vocabulary(pocket)
    pieces = Pieces(own.path, own.metadata, own.ends, own.tokenizer_file)
    spoken = Spoken("one", own.encode("one"), own.encode(" two"))

    assert spoken.encode("one two three", pieces) == own.encode("one two three")  # all of it, from the beginning
    special = spoken.encode("one two<|endoftext|>three", pieces)
    assert special == [*spoken.prompt, *spoken.reply, *own.encode("<|endoftext|>three")]
