"""Tokens laid out by number, as a GGUF file lists them: texts, kinds, and padding up to the embedding's rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

PREFIX = "tokenizer.ggml"


_DIGITS = 20
"""More than any token's number has; Python refuses to read thousands of them."""


class TokenKind(IntEnum):
    """What a token is for; the numbers are GGUF's (and SentencePiece's)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else happens to it."""

    number: int
    text: str
    special: bool


@dataclass(frozen=True)
class TokenizerSource:
    """Everything that a model directory says about its tokenizer, parsed but not yet understood."""

    path: Path
    """The file that holds the vocabulary."""
    data: dict[str, Any]
    """tokenizer.json; empty when the vocabulary is a SentencePiece model."""
    settings: dict[str, Any]
    """tokenizer_config.json, empty when there is none."""
    rows: int
    """Rows of the embedding: the number of tokens that the model knows."""


@dataclass
class Vocabulary:
    """Tokens by number; positions that no token fills stay unused."""

    path: Path
    rows: int
    texts: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, TokenKind] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def put(self, number: object, text: object, kind: TokenKind, score: float = 0.0) -> None:
        """Place one token; raises CheckpointError when its number or text cannot be right."""
        if not isinstance(text, str) or type(number) is not int or number < 0:
            raise CheckpointError(
                f"{self.path} has a token {quoted(text)} with number {quoted(number)}; the file is damaged."
            )
        if number >= self.rows:
            raise CheckpointError(
                f"{self.path} numbers the token {quoted(text)} {quoted(number)}, but the embedding has "
                f"{self.rows} rows; the tokenizer belongs to another model."
            )
        self.texts[number], self.kinds[number], self.scores[number] = text, kind, score

    def add(self, tokens: Iterable[AddedToken], score: float = 0.0) -> None:
        """Place added tokens over whatever the vocabulary has at their numbers."""
        for token in tokens:
            kind = TokenKind.CONTROL if token.special else TokenKind.USER_DEFINED
            self.put(token.number, token.text, kind, score)

    def numbers(self) -> dict[str, int]:
        """Text -> number; CheckpointError when two tokens have one text, which GGUF readers cannot tell apart."""
        result = {text: number for number, text in self.texts.items()}
        if len(result) != len(self.texts):
            twice = next(text for number, text in self.texts.items() if result[text] != number)
            raise CheckpointError(
                f"{self.path} has two tokens with the text {quoted(twice)}; a GGUF file cannot state that."
            )
        return result

    def metadata(self) -> dict[str, Value]:
        """The lists of texts and kinds, every row of the embedding filled."""
        numbers = range(self.rows)
        texts = [self.texts.get(n, f"[PAD{n}]") for n in numbers]
        if len(self.texts) < self.rows and len(set(texts)) < self.rows:
            raise CheckpointError(f"{self.path} has a token called [PADn], the name that unused rows need; rename it.")
        kinds = [int(self.kinds.get(n, TokenKind.UNUSED)) for n in numbers]
        return {
            f"{PREFIX}.tokens": Value(texts, "array:string"),
            f"{PREFIX}.token_type": Value(kinds, "array:int32"),
        }

    def notes(self) -> list[str]:
        """A sentence about rows of the embedding that no token uses."""
        unused = self.rows - len(self.texts)
        return [f"{unused} rows of the embedding have no token and are named [PADn]."] if unused else []


def added_tokens(source: TokenizerSource) -> list[AddedToken]:
    """Added tokens of tokenizer.json, and those that only tokenizer_config.json knows."""
    listed = source.data.get("added_tokens") or []
    decoder = source.settings.get("added_tokens_decoder") or {}
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise CheckpointError(f"{source.path} has added tokens that are no list; the file is damaged.")
    known = {raw.get("id") for raw in listed if isinstance(raw, dict) and type(raw.get("id")) is int}
    numbered = {key: raw for key, raw in decoder.items() if key.isdecimal() and len(key) < _DIGITS}
    more = [{**raw, "id": int(key)} for key, raw in numbered.items() if isinstance(raw, dict)]
    result = []
    for raw in [*listed, *(raw for raw in more if raw["id"] not in known)]:
        if not isinstance(raw, dict) or type(raw.get("id")) is not int or not isinstance(raw.get("content"), str):
            raise CheckpointError(f"{source.path} has an added token without id or content: {quoted(raw)}; damaged.")
        result.append(AddedToken(raw["id"], raw["content"], bool(raw.get("special"))))
    return result


def stripping_notes(source: TokenizerSource) -> list[str]:
    """A note about added tokens that take the white space beside them along (Phi-3's do)."""
    listed = [raw for raw in source.data.get("added_tokens") or [] if isinstance(raw, dict)]
    greedy = [raw.get("content") for raw in listed if raw.get("lstrip") or raw.get("rstrip")]
    if not greedy:
        return []
    note = (
        f"{len(greedy)} added tokens (such as {quoted(greedy[0])}) take the white space beside them along, which a "
        "GGUF file cannot state: text with white space there gets other tokens in llama.cpp."
    )
    return [note]
