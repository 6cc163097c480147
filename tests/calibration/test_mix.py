"""The built-in mix keeps its shares, reads what every Python carries, and shares nothing with the guard's text."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewbits.calibration import guard_text, read_calibration
from fewbits.calibration.mix import SHARES, default_mix
from fewbits.evaluation.model_files import open_model
from references.words import Words


def test_the_mix_needs_no_file_and_keeps_its_shares(pocket: Path) -> None:
    vocabulary = open_model(pocket).vocabulary()

    data = read_calibration(None, vocabulary, length=128, windows=100)

    assert data.notes == ()
    assert {part["name"]: part["windows"] for part in data.fingerprint["parts"]} == {
        name: round(100 * share) for name, share in SHARES.items()
    }
    assert all(part["sources"] for part in data.fingerprint["parts"])


def test_the_dialogues_of_the_mix_go_through_the_chat_template() -> None:
    tokenizer = Words(chat=True)

    data = read_calibration(None, tokenizer, length=64, windows=100)

    turns = {"<turn>": 8, "user": tokenizer.ids["user"], "assistant": tokenizer.ids["assistant"]}
    assert all((data.windows == token).any(1).sum() >= 8 for token in turns.values())
    assert data.notes == ()


def test_the_modules_of_the_mix_are_those_of_the_standard_library() -> None:
    one, other = (default_mix(65_536, seed)[1].sources for seed in (0, 1))

    assert len(one) > 8
    assert {source.name for source in one} != {source.name for source in other}
    names = [source.name for source in (*one, *other)]
    assert all(name.endswith(".py of the standard library") for name in names)
    everything = [source.name for source in default_mix(10**9, 0)[1].sources]
    assert len(everything) > 200
    no_prose = ("site-packages", "/test", "encodings/", "pydoc_data/", "idlelib/", "lib2to3/", "ensurepip/")
    assert [name for name in everything if any(part in name for part in no_prose)] == []


def test_the_guard_reads_another_text_than_calibration() -> None:
    """No eight words in a row of the guard's text stand anywhere in the mix, whatever modules are chosen."""
    guard = guard_text().split()
    runs = {tuple(guard[i : i + 8]) for i in range(len(guard) - 7)}
    documents = [d for part in default_mix(10**9, 0) for source in part.sources for d in source.documents]
    words = [
        word
        for document in documents
        for word in (document if isinstance(document, str) else " ".join(m.content for m in document)).split()
    ]

    assert len(guard_text()) > 25_000
    assert [words[i : i + 8] for i in range(len(words) - 7) if tuple(words[i : i + 8]) in runs] == []


def test_the_guards_text_is_enough_for_the_guard(pocket: Path) -> None:
    assert len(open_model(pocket).vocabulary().encode(guard_text())) >= 4_096


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_fewer_windows_than_parts_of_the_mix(windows: int) -> None:
    class Letters:
        start_token = None

        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    assert read_calibration(None, Letters(), length=16, windows=windows).windows.shape == (windows, 16)
