"""WordPiece tokenizers as GGUF metadata and back, and what GGUF cannot state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf
from fewbits.errors import CheckpointError
from references.encoder_models import save_encoder, word_piece_tokenizer
from references.random_models import HARD_TEXT, manual

KINDS: dict[str, dict[str, Any]] = {
    "uncased": {},
    "cased": {"cased": True},
    "accented": {"strip_accents": False},
    "cased, no accents": {"cased": True, "strip_accents": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_way_back_gives_the_tokens_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model", tokenizer=word_piece_tokenizer(**options))
    conversion = convert_directory(directory)
    rebuilt = tokenizer_from_gguf(conversion.metadata)
    expected = transformers.AutoTokenizer.from_pretrained(directory)

    for text in (HARD_TEXT, manual()[:20_000], "", "ÀÉ é", "[MASK] in [SEP] text", "x" * 101):
        assert rebuilt.encode(text).ids == expected(text)["input_ids"], text[:40]
    assert any("The tokenizer keeps" in note for note in conversion.notes) == bool(options)
    accents = options.get("strip_accents", not options.get("cased", False))
    assert any("Korean" in note for note in conversion.notes) == accents


def test_pieces_are_marked_where_words_begin(tmp_path: Path) -> None:
    metadata = convert_directory(save_encoder(tmp_path / "model")).metadata
    tokens = metadata["tokenizer.ggml.tokens"].value

    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert "\u2581the" in tokens
    assert not any(token.startswith("##") for token in tokens)
    assert {key.rpartition(".")[2]: metadata[key].value for key in metadata if key.endswith("_token_id")} == {
        "bos_token_id": 2,
        "cls_token_id": 2,
        "seperator_token_id": 3,
        "unknown_token_id": 1,
        "padding_token_id": 0,
        "mask_token_id": 4,
    }


def post_processor(stated: dict[str, Any]) -> None:
    """The older spelling of what is put around a text."""
    stated["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}


def test_the_older_post_processor_is_understood(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    before = convert_directory(directory).metadata
    edit(directory, post_processor)

    assert convert_directory(directory).metadata == before


def nothing_around(stated: dict[str, Any]) -> None:
    stated["post_processor"] = None


def other_mark(stated: dict[str, Any]) -> None:
    stated["model"]["continuing_subword_prefix"] = "@@"


def other_cut(stated: dict[str, Any]) -> None:
    stated["pre_tokenizer"] = {"type": "Whitespace"}


def other_preparation(stated: dict[str, Any]) -> None:
    stated["normalizer"]["handle_chinese_chars"] = False


def no_unknown(stated: dict[str, Any]) -> None:
    stated["model"]["unk_token"] = "[NONE]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing_around, "does not put a token before and one after"),
        (other_mark, "'@@'"),
        (other_cut, "cuts text by .*Whitespace"),
        (other_preparation, "prepares text by .*BertNormalizer"),
        (no_unknown, "without an unknown one"),
    ],
)
def test_what_cannot_be_stated_is_refused(change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    edit(directory, change)

    with pytest.raises(CheckpointError, match=said):
        convert_directory(directory)


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "tokenizer.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    change(stated)
    path.write_text(json.dumps(stated), encoding="utf-8")
