"""Tokenizers as metadata and back: the same tokens as the original's on text that is hard to cut."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.configuration import read_configuration
from fewbits.checkpoints.pretokenizers import pretokenizers
from fewbits.checkpoints.tokenizer import TokenizerFacts, read_tokenizer, tokenizer_from_gguf
from fewbits.errors import CheckpointError
from references.random_models import (
    HARD_TEXT,
    LLAMA3,
    QWEN2,
    byte_level_tokenizer,
    manual,
    save_byte_level,
    save_pieces,
    small_config,
)

SPACE = "\u2581"
SPECIAL = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
TEXTS = (
    HARD_TEXT,
    manual()[:60_000],
    "",
    " ",
    "  two",
    "x\n",
    "a<|im_end|>b <think>c",
    unicodedata.normalize("NFD", "é"),
)


def read(directory: Path, rows: int) -> TokenizerFacts:
    config = small_config(transformers.LlamaConfig, rows=rows, architectures=["LlamaForCausalLM"])
    config.save_pretrained(directory)
    return read_tokenizer(directory, read_configuration(directory))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    stated = json.loads(path.read_text())
    change(stated)
    path.write_text(json.dumps(stated))


# --- byte-level ------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": ({}, "gpt-2"),
    "llama3": ({"pattern": LLAMA3, "ignore_merges": True, "bos": "<|begin|>"}, "llama-bpe"),
    "llama3_merging": ({"pattern": LLAMA3}, "smaug-bpe"),
    "qwen2": ({"pattern": QWEN2, "nfc": True}, "qwen2"),
}


@pytest.fixture(scope="module", params=KINDS)
def bytes_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    options, name = KINDS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    save_byte_level(directory, byte_level_tokenizer(**options))
    return directory, name


def test_byte_level_comes_back(bytes_model: tuple[Path, str]) -> None:
    directory, name = bytes_model
    original = Tokenizer.from_file(str(directory / "tokenizer.json"))
    facts = read(directory, original.get_vocab_size())
    assert facts.metadata["tokenizer.ggml.pre"].value == name
    rebuilt = tokenizer_from_gguf(facts.metadata)
    for text in TEXTS:
        expected = original.encode(text).ids
        assert rebuilt.encode(text).ids == expected
        assert rebuilt.decode(expected) == original.decode(expected)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_is_cut_alike(text: str, bytes_model: tuple[Path, str]) -> None:
    directory, _ = bytes_model
    original, rebuilt = _both(directory)
    assert rebuilt.encode(text).ids == original.encode(text).ids


_CACHE: dict[Path, tuple[Tokenizer, Tokenizer]] = {}


def _both(directory: Path) -> tuple[Tokenizer, Tokenizer]:
    if directory not in _CACHE:
        original = Tokenizer.from_file(str(directory / "tokenizer.json"))
        facts = read(directory, original.get_vocab_size())
        _CACHE[directory] = original, tokenizer_from_gguf(facts.metadata)
    return _CACHE[directory]


def test_special_tokens_and_kinds(bytes_model: tuple[Path, str]) -> None:
    directory, _ = bytes_model
    original = Tokenizer.from_file(str(directory / "tokenizer.json"))
    facts = read(directory, original.get_vocab_size()).metadata
    tokens, kinds = facts["tokenizer.ggml.tokens"].value, facts["tokenizer.ggml.token_type"].value
    assert {tokens[n]: kinds[n] for n in range(len(tokens)) if kinds[n] != 1} == {
        "<|endoftext|>": 3, "<|begin|>": 3, "<|im_end|>": 3, "<think>": 4
    }  # fmt: skip
    assert facts["tokenizer.ggml.bos_token_id"].value == original.token_to_id("<|begin|>")
    assert facts["tokenizer.ggml.eos_token_id"].value == original.token_to_id("<|im_end|>")
    added = original.encode("a").ids != original.encode("a", add_special_tokens=False).ids
    assert facts["tokenizer.ggml.add_bos_token"].value is added
    assert facts["tokenizer.ggml.add_eos_token"].value is False


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, int]:
    tokenizer = byte_level_tokenizer()
    save_byte_level(tmp_path, tokenizer)
    return tmp_path, tokenizer.get_vocab_size()


def test_composition_is_said(plain: tuple[Path, int]) -> None:
    directory, rows = plain
    edit(directory / "tokenizer.json", lambda t: t.update(normalizer={"type": "NFC"}))
    assert any("NFC" in note for note in read(directory, rows).notes)


def test_the_post_processor_counts_before_settings_as_in_transformers(plain: tuple[Path, int]) -> None:
    directory, rows = plain
    edit(directory / "tokenizer_config.json", lambda s: s.update(add_bos_token=True, add_eos_token=False))
    facts = read(directory, rows)
    assert any("add_bos_token = true" in note for note in facts.notes)
    assert not any("add_eos_token" in note for note in facts.notes)
    expected = transformers.AutoTokenizer.from_pretrained(directory)("some text")["input_ids"]
    assert tokenizer_from_gguf(facts.metadata).encode("some text").ids == expected


def test_tokens_on_both_sides(plain: tuple[Path, int]) -> None:
    directory, rows = plain
    single = [SPECIAL, TEXT, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]
    known = {name: {"id": name, "ids": [n], "tokens": [name]} for name, n in (("<|begin|>", 901), ("<|im_end|>", 902))}
    post = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known}
    edit(directory / "tokenizer.json", lambda t: t.update(post_processor=post))
    facts = read(directory, rows).metadata
    assert facts["tokenizer.ggml.add_bos_token"].value is facts["tokenizer.ggml.add_eos_token"].value is True
    expected = transformers.AutoTokenizer.from_pretrained(directory)("some text")["input_ids"]
    assert tokenizer_from_gguf(facts).encode("some text").ids == expected
    assert expected[0] == 901
    assert expected[-1] == 902


def test_a_chat_template_of_its_own_counts_first(plain: tuple[Path, int]) -> None:
    directory, rows = plain
    several = [{"name": "default", "template": "old"}, {"name": "tool", "template": "use"}]
    edit(directory / "tokenizer_config.json", lambda s: s.update(chat_template=several))
    facts = read(directory, rows).metadata
    assert facts["tokenizer.chat_template"].value == "old"
    assert facts["tokenizer.chat_template.tool"].value == "use"
    assert facts["tokenizer.chat_templates"].value == ["tool"]
    (directory / "chat_template.jinja").write_text("{{ new }}")
    found = read(directory, rows)
    assert found.metadata["tokenizer.chat_template"].value == "{{ new }}"
    assert directory / "chat_template.jinja" in found.files


def test_merges_written_as_text_are_the_same(plain: tuple[Path, int]) -> None:
    directory, rows = plain
    before = read(directory, rows).metadata
    joined = lambda t: t["model"].update(merges=[" ".join(pair) for pair in t["model"]["merges"]])
    edit(directory / "tokenizer.json", joined)
    assert read(directory, rows).metadata == before


def model_of(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t["model"].update(changes)


def cutter(*steps: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": list(steps)})


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unigram": (lambda t: t.update(model={"type": "Unigram", "vocab": []}), "Unigram tokenizer"),
    "word_piece": (model_of(type="WordPiece"), "WordPiece tokenizer"),
    "no_model": (lambda t: t.pop("model"), "nameless tokenizer"),
    "no_merges": (lambda t: t["model"].pop("merges"), "tokenizer; BPE"),
    "dropout": (model_of(dropout=0.1), "dropout = 0.1"),
    "word_suffix": (model_of(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "unknown_pattern": (
        cutter({"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}),
        "no known pre-tokenizer does .Split isolated",
    ),
    "no_pre_tokenizer": (lambda t: t.update(pre_tokenizer=None), r"does .nothing; ignore_merges = false"),
    "whitespace": (cutter({"type": "Whitespace"}, {"type": "ByteLevel", "use_regex": False}), "Whitespace; ByteLevel"),
    "prefix_space": (
        lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "with a space before the text"
    ),
    "ignoring_gpt2": (model_of(ignore_merges=True), "ignore_merges = true"),
    "lowercase": (lambda t: t.update(normalizer={"type": "Lowercase"}), "by Lowercase"),
    "two_before": (
        lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": [SPECIAL, SPECIAL, TEXT]}),
        "one known token each",
    ),
    "unknown_before": (
        lambda t: t.update(post_processor={
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<no>"}}, TEXT]
        }),
        "one known token each",
    ),
    "text_twice": (
        lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": [TEXT, TEXT]}), "odd pieces"
    ),
    "roberta": (lambda t: t.update(post_processor={"type": "RobertaProcessing"}), "RobertaProcessing"),
    "number_too_high": (lambda t: t["model"]["vocab"].update(zzzz=100_000), "numbers the token 'zzzz' 100000"),
    "negative_number": (lambda t: t["model"]["vocab"].update(zzzz=-1), "number -1"),
    "number_is_text": (lambda t: t["model"]["vocab"].update(zzzz="1"), "number '1'"),
    "added_without_id": (lambda t: t["added_tokens"].append({"content": "x"}), "without id or content"),
    "merge_of_three": (lambda t: t["model"]["merges"].append(["a", "b", "c"]), "joins no two tokens"),
    "merge_of_nothing": (lambda t: t["model"]["merges"].append(["", "b"]), "joins no two tokens"),
    "merge_with_space": (lambda t: t["model"]["merges"].append(["a b", "c"]), "cannot state spaces"),
    "same_text_twice": (
        lambda t: t["added_tokens"].append({"id": 0, "content": "<think>", "special": False}), "the text '<think>'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "saying"), REFUSED.values(), ids=REFUSED)
def test_what_gguf_cannot_state_is_refused(change: Any, saying: str, plain: tuple[Path, int]) -> None:
    directory, rows = plain
    edit(directory / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=saying):
        read(directory, rows)


def test_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        read(tmp_path, 100)


def test_known_pre_tokenizers_have_steps_of_their_own() -> None:
    stated = [(known.steps, known.ignore_merges) for known in pretokenizers()]
    assert len(set(stated)) == len(stated)


# --- SentencePiece ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pieces")
    save_pieces(directory)
    return directory


@pytest.fixture
def pieces(trained: Path, tmp_path: Path) -> Path:
    """tokenizer.json as transformers makes it from the SentencePiece model: a space before the text by Metaspace."""
    (tmp_path / "tokenizer.model").write_bytes((trained / "tokenizer.model").read_bytes())
    transformers.LlamaTokenizer.from_pretrained(tmp_path, add_bos_token=True).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    return tmp_path


def as_llama2(stated: dict[str, Any]) -> None:
    steps = [{"type": "Prepend", "prepend": SPACE}]
    steps += [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]  # type: ignore[dict-item]
    stated.update(pre_tokenizer=None, normalizer={"type": "Sequence", "normalizers": steps})


def scheme(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda t: t["pre_tokenizer"].update(prepend_scheme=name)


@pytest.mark.parametrize(
    ("change", "prefix"),
    [(as_llama2, True), (scheme("first"), True), (scheme("always"), True), (scheme("never"), False)],
    ids=["llama2", "first", "always", "never"],
)
def test_pieces_come_back(change: Callable[[dict[str, Any]], Any], prefix: bool, pieces: Path) -> None:
    edit(pieces / "tokenizer.json", change)
    original = Tokenizer.from_file(str(pieces / "tokenizer.json"))
    facts = read(pieces, 700)
    assert facts.metadata["tokenizer.ggml.model"].value == "llama"
    assert facts.metadata["tokenizer.ggml.add_space_prefix"].value is prefix
    rebuilt = tokenizer_from_gguf(facts.metadata)
    for text in (*TEXTS, "a</s>b<s> c"):
        assert rebuilt.encode(text).ids == original.encode(text).ids
    assert rebuilt.decode(original.encode(HARD_TEXT).ids) == original.decode(original.encode(HARD_TEXT).ids)


def test_a_bare_model_is_cut_as_sentencepiece_does(trained: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(str(trained / "tokenizer.model"))
    facts = read(trained, 700)
    rebuilt = tokenizer_from_gguf(facts.metadata)
    for text in TEXTS[:-2]:
        assert rebuilt.encode(text, add_special_tokens=False).ids == processor.encode(text)
    metadata = facts.metadata
    assert metadata["tokenizer.ggml.tokens"].value == [processor.id_to_piece(n) for n in range(700)]
    assert metadata["tokenizer.ggml.scores"].value == [processor.get_score(n) for n in range(700)]
    kinds = metadata["tokenizer.ggml.token_type"].value
    assert kinds[:4] == [2, 3, 3, 6]
    assert kinds.count(6) == 256


def test_scores_from_merges_rank_tokens_as_the_model_does(trained: Path, pieces: Path) -> None:
    stated = read(trained, 700).metadata["tokenizer.ggml.scores"].value
    made = read(pieces, 700).metadata["tokenizer.ggml.scores"].value
    joined = [n for n, text in enumerate(read(trained, 700).metadata["tokenizer.ggml.tokens"].value) if len(text) > 1]
    joined = [n for n in joined if n >= 259]
    assert sorted(joined, key=lambda n: -stated[n]) == sorted(joined, key=lambda n: -made[n])


def test_joins_that_no_merge_lists_are_said(pieces: Path) -> None:
    assert not any("joined in ways" in note for note in read(pieces, 700).notes)
    edit(pieces / "tokenizer.json", lambda t: t["model"].update(merges=t["model"]["merges"][:-40]))
    assert any("joined in ways" in note for note in read(pieces, 700).notes)


PIECES_REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "ignore_merges": (model_of(ignore_merges=True), "ignore_merges"),
    "spaces_kept": (lambda t: t.update(pre_tokenizer=None, normalizer=None), "does not write spaces"),
    "lowercase": (lambda t: t.update(normalizer={"type": "Lowercase"}), "prepares text by"),
    "cut_at_spaces": (lambda t: t["pre_tokenizer"].update(split=True), "prepares text by"),
}


@pytest.mark.parametrize(("change", "saying"), PIECES_REFUSED.values(), ids=PIECES_REFUSED)
def test_pieces_that_gguf_cannot_state_are_refused(change: Any, saying: str, pieces: Path) -> None:
    edit(pieces / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=saying):
        read(pieces, 700)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 20_000), position=st.integers(0, 20_000), byte=st.integers(0, 255))
def test_a_damaged_model_is_an_error_of_ours_or_harmless(cut: int, position: int, byte: int, trained: Path) -> None:
    from fewbits.checkpoints.sentencepiece_model import read_model

    raw = bytearray((trained / "tokenizer.model").read_bytes())
    raw[position % len(raw)] = byte
    path = trained / "damaged.model"
    path.write_bytes(raw[: max(1, len(raw) - cut)])
    try:
        read_model(path)
    except CheckpointError:
        return


# --- back from a GGUF file -------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[dict[str, Value | None], str]] = {
    "no_model": ({"model": None}, r"states no usable tokenizer\.ggml\.model"),
    "other_model": ({"model": Value("t5", "string")}, "kind 't5'"),
    "no_unknown": ({"model": Value("bert", "string")}, r"tokenizer\.ggml\.unknown_token_id"),
    "no_tokens": ({"tokens": None}, r"tokenizer\.ggml\.tokens"),
    "no_merges": ({"merges": None}, r"tokenizer\.ggml\.merges"),
    "unknown_cut": ({"pre": Value("viking", "string")}, "'viking'.* is not known"),
    "few_kinds": ({"token_type": Value([1], "array:int32")}, "1 token types"),
    "foreign_merge": ({"merges": Value(["qqqq zzzz"], "array:string")}, "not all tokens"),
    "start_outside": (
        {"bos_token_id": Value(10**6, "uint32"), "add_bos_token": Value(True, "bool")},
        "special token 1000000",
    ),
}


@pytest.mark.parametrize(("changes", "saying"), BROKEN.values(), ids=BROKEN)
def test_broken_metadata_is_refused(changes: dict[str, Value | None], saying: str, plain: tuple[Path, int]) -> None:
    directory, rows = plain
    metadata = dict(read(directory, rows).metadata)
    for key, value in changes.items():
        metadata.pop(f"tokenizer.ggml.{key}", None)
        if value is not None:
            metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(CheckpointError, match=saying):
        tokenizer_from_gguf(metadata)
