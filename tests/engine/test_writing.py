"""A text while it is written: why it ends, what of a prompt is read again, and what an interrupt leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewbits.engine.sampling import Sampling
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from fewbits.engine.writing import CHUNK, CONTEXT, COUNT, END, INTERRUPTED, STOP, Ask, Writer, Written
from fewbits.errors import EngineError
from references.fake_engine import FakeModel, FakeSession


@pytest.fixture(scope="module")
def tokens(pocket: Path) -> Vocabulary:
    return read_vocabulary(pocket)


@pytest.fixture
def writer(tokens: Vocabulary) -> Callable[..., Writer]:
    def make(*replies: str, context: int = 512, on_batch: Callable[[], None] = lambda: None) -> Writer:
        model = FakeModel(tokens.path, [tokens.encode(reply) for reply in replies], on_batch=on_batch)
        return Writer(model.session(context=context), tokens, 4096)

    return make


def ask(tokens: Vocabulary, prompt: str, *, count: int = 100, stops: Sequence[str] = (), strip: bool = False) -> Ask:
    return Ask(prompt=tokens.encode(prompt), count=count, sampler=Sampling(seed=1).sampler(), stops=stops, strip=strip)


def session_of(writer: Writer) -> Any:
    assert isinstance(writer.session, FakeSession)
    return writer.session


@pytest.mark.parametrize(
    ("reply", "options", "expected", "ended"),
    [
        (" of the naïve 🦊<|endoftext|> and more", {}, " of the naïve 🦊", END),
        ("one\ntwo END three", {"stops": ["END", "x"]}, "one\ntwo ", STOP),
        ("one two EN", {"stops": ["END"]}, "one two EN", END),
        ("a b c d e f g h", {"count": 3}, "a b c", COUNT),
        (" spaced", {"strip": True}, "spaced", END),
    ],
)
def test_a_text_ends_where_it_should(
    writer: Callable[..., Writer], tokens: Vocabulary, reply: str, options: dict[str, Any], expected: str, ended: str
) -> None:
    shown: list[str] = []

    result = writer(reply).write(ask(tokens, "Once upon", **options), shown.append)

    assert (result.text, result.ended) == (expected, ended)
    assert "".join(shown) == expected
    assert result.stop_string == ("END" if ended == STOP else None)


def test_a_full_context_is_told_from_a_limit_that_was_asked_for(
    writer: Callable[..., Writer], tokens: Vocabulary
) -> None:
    prompt = ask(tokens, "Once upon a time", count=100)
    room = len(prompt.prompt) + 2

    result = writer("a b c d e f", context=room).write(prompt)

    assert (result.ended, len(result.tokens)) == (CONTEXT, 2)


def test_half_a_character_at_the_limit_is_not_shown(writer: Callable[..., Writer], tokens: Vocabulary) -> None:
    fox = tokens.encode("🦊")
    assert len(fox) > 1

    result = writer("🦊").write(ask(tokens, "x", count=len(fox) - 1))

    assert (result.text, len(result.tokens)) == ("", len(fox) - 1)


def test_a_long_prompt_is_read_in_chunks_and_all_but_its_last_token_before_the_first_answer(
    writer: Callable[..., Writer], tokens: Vocabulary
) -> None:
    made = writer("yes", context=2048)
    prompt = ask(tokens, "word " * 700)

    result = made.write(prompt)

    size = len(prompt.prompt) - 1
    assert session_of(made).read == [CHUNK] * (size // CHUNK) + [size % CHUNK, 1]
    assert (result.prompt_tokens, result.reused) == (size + 1, 0)
    assert result.prompt_speed is not None


def test_only_what_is_new_of_the_next_prompt_is_read(writer: Callable[..., Writer], tokens: Vocabulary) -> None:
    made = writer(" one two three", " four", " five")
    first = made.write(ask(tokens, "Count:"))
    whole = [*tokens.encode("Count:"), *first.tokens]
    longer = [*whole, *tokens.encode("\nmore")]

    before = len(session_of(made).read)
    second = made.write(Ask(prompt=longer, count=9, sampler=Sampling(seed=1).sampler()))

    # The last token of an answer was never asked about, so the cache may lack it; nothing else is read twice.
    assert len(longer) - len(whole) <= sum(session_of(made).read[before:]) <= len(longer) - len(whole) + 1
    assert second.reused >= len(whole) - 1

    other = made.write(ask(tokens, "Count: not"))
    assert other.reused == len(tokens.encode("Count:"))
    assert session_of(made).tokens[: other.prompt_tokens] == tokens.encode("Count: not")


def test_the_same_prompt_again_reads_its_last_token_only(writer: Callable[..., Writer], tokens: Vocabulary) -> None:
    made = writer("a", "b")
    made.write(ask(tokens, "Once upon a time"))
    again = made.write(ask(tokens, "Once upon a time"))

    assert (again.reused, again.prompt_speed) == (again.prompt_tokens - 1, None)


def test_an_interrupt_keeps_what_was_written_and_the_cache_in_order(
    writer: Callable[..., Writer], tokens: Vocabulary
) -> None:
    beats = iter([None, KeyboardInterrupt()])

    def on_batch() -> None:
        error = next(beats, None)
        if error is not None:
            raise error

    made = writer(" one two three four five six", " seven", on_batch=on_batch)
    shown: list[str] = []
    cut: Written = made.write(ask(tokens, "Count:"), shown.append)

    assert cut.ended == INTERRUPTED
    assert cut.text == "".join(shown)
    assert len(cut.tokens) == 4
    assert " one two three four five six".startswith(cut.text)
    # The engine was ahead by then; what nobody saw is not taken for part of the text.
    after = made.write(Ask(prompt=[*tokens.encode("Count:"), *cut.tokens, 9, 9], count=5, sampler=Sampling().sampler()))
    assert after.text == " seven"
    assert session_of(made).tokens[: after.prompt_tokens] == [*tokens.encode("Count:"), *cut.tokens, 9, 9]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([], "the prompt is empty"),
        ([5] * 8, "the prompt has 8 tokens and the context has room for 8, one of them for the answer"),
        ([5, 4096], "token 4096 of the prompt is unknown to the model, whose output has 4096 rows"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(
    writer: Callable[..., Writer], prompt: list[int], expected: str
) -> None:
    with pytest.raises(EngineError, match=expected):
        writer("a", context=8).write(Ask(prompt=prompt, count=1, sampler=Sampling().sampler()))
