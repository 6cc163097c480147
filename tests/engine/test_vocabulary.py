"""A model's tokens: ids that mean their text, bytes that are the text's, starts not doubled, ends known."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, processors

import fewbits
from fewbits.checkpoints.base import Value
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from fewbits.errors import CheckpointError, EngineError

HARD_TEXT = "It's 2024-11-05; we've DON'T\n\n\tdef f(x) -> str:\r\n  é½²\u3000👩\u200d👧 <tag> _a_ 'Tis \x00 naïve"


@pytest.fixture(scope="module", params=["directory", "GGUF"])
def pocket_tokens(request: pytest.FixtureRequest, pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    if request.param == "directory":
        return read_vocabulary(pocket)
    target = tmp_path_factory.mktemp("tokens") / "pocket.gguf"
    fewbits.quantize(pocket, target, to="Q4_0")
    return read_vocabulary(target)


def save_config(pocket: Path, folder: Path, *, rows: int) -> None:
    stated = json.loads((pocket / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**stated, "vocab_size": rows}))


@pytest.fixture(scope="module")
def pieces() -> Vocabulary:
    """SentencePiece's kind: bytes for what has no token, and words whose parts join by their scores."""
    plain = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"two words", "tw", "two"]
    tokens = [*dict.fromkeys(each for each in plain if each != " "), "\u2581two"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    stated = {
        "model": Value("llama", "string"),
        "tokens": Value(tokens, "array:string"),
        "token_type": Value(kinds, "array:int32"),
        "scores": Value([float(-n) for n in range(len(tokens))], "array:float32"),
        "bos_token_id": Value(1, "uint32"),
    }
    return Vocabulary(Path("pieces"), edited({}, **stated), frozenset({2}))


@pytest.fixture(scope="module")
def special(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """A tokenizer with a start token, ends of turns and a token of the user's, whose GGUF names one end only."""
    folder = tmp_path_factory.mktemp("special")
    tokenizer = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|begin|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(ends))
    save_config(pocket, folder, rows=tokenizer.get_vocab_size() + 3)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    return read_vocabulary(folder)


def bytes_of(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    return b"".join(map(vocabulary.piece, ids))


@pytest.mark.parametrize("text", [HARD_TEXT, "plain words", " \n\n x", "a🦊b\u0301"])
def test_bytes_of_a_text_s_tokens_are_the_text(pocket_tokens: Vocabulary, text: str) -> None:
    assert bytes_of(pocket_tokens, pocket_tokens.encode(text)).decode() == text


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4095), max_size=30))
def test_any_tokens_mean_what_the_tokenizer_says(ids: list[int]) -> None:
    pocket = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
    theirs = once_opened(pocket / "tokenizer.json").decode(ids, skip_special_tokens=True)

    assert bytes_of(once_read(pocket), ids).decode("utf-8", "replace") == theirs


@cache
def once_opened(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


@cache
def once_read(path: Path) -> Vocabulary:
    return read_vocabulary(path)


@pytest.mark.parametrize("text", [HARD_TEXT, "two words", "  indented", "🦊"])
def test_pieces_mean_their_text_behind_one_space(pieces: Vocabulary, text: str) -> None:
    ids = pieces.encode(text)

    assert ids[0] == pieces.start
    assert bytes_of(pieces, ids).decode() == " " + text
    assert pieces.strips_first_space


def test_a_start_token_is_put_before_a_text_once(special: Vocabulary) -> None:
    plain = special.encode("hello")

    assert special.encode("<|begin|>hello") == plain
    assert plain[0] == special.start
    assert plain[1:].count(special.start or -1) == 0
    assert special.special_text("bos") == "<|begin|>"


def test_special_tokens_write_nothing_and_the_user_s_own_write_themselves(special: Vocabulary) -> None:
    assert bytes_of(special, special.encode("a<|im_end|>b<think>")) == b"ab<think>"
    assert bytes_of(special, [len(special.tokens) - 1, len(special.tokens), 10**6, -1]) == b""


def test_every_token_that_ends_a_text_is_known(special: Vocabulary, pocket_tokens: Vocabulary) -> None:
    texts = {special.tokens[end] for end in special.ends if end not in (5, 7)}

    assert texts == {"<|im_end|>", "<|endoftext|>"}
    assert {5, 7} < special.ends  # generation_config.json says so
    assert pocket_tokens.ends == {0}


def edited(pocket_metadata: dict[str, Value], **changes: Any) -> dict[str, Value]:
    return {**pocket_metadata, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": Value("bert", "string")}, "of kind 'bert', and text is written with"),
        ({"tokens": Value([1, 2], "array:int32")}, "holds no tokenizer"),
        ({"token_type": Value([1], "array:int32")}, "differ in number"),
    ],
)
def test_a_file_whose_tokens_write_no_text_is_refused(
    pocket: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    from fewbits.checkpoints import gguf_parts

    own = dict(read_vocabulary(pocket).metadata)
    opened = type("Opened", (), {"metadata": edited(own, **changes)})
    monkeypatch.setattr(gguf_parts, "open_gguf", lambda _path: opened)

    with pytest.raises(EngineError, match=expected):
        read_vocabulary(tmp_path / "x.gguf")


def test_a_byte_that_is_none_is_a_damaged_file(pieces: Vocabulary) -> None:
    number = pieces.tokens.index("<0x0A>")
    tokens = [*pieces.tokens[:number], "<0xZZ>", *pieces.tokens[number + 1 :]]
    broken = Vocabulary(pieces.path, edited(dict(pieces.metadata), tokens=Value(tokens, "array:string")), pieces.ends)

    with pytest.raises(EngineError, match="said to be a byte and names none"):
        broken.piece(number)
    assert pieces.piece(number) == b"\n"


def test_a_directory_without_a_tokenizer_is_refused(pocket: Path, tmp_path: Path) -> None:
    shutil.copy(pocket / "config.json", tmp_path)

    with pytest.raises(CheckpointError, match=r"has neither tokenizer.json nor tokenizer.model"):
        read_vocabulary(tmp_path)
