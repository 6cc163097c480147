"""The tokens of a model as it writes: text to token ids, ids to bytes, and which tokens begin and end a text.

A GGUF file states its tokenizer; a model directory is read as the GGUF file it would become, and encodes text with its
own tokenizer.json where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.tokenizer_pieces import SPACE
from fewbits.checkpoints.vocabulary import PREFIX, TokenKind
from fewbits.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ENDS = ("eos", "eot", "eom")
"""Tokens that a GGUF file names as ends: of a text, of a turn, of a message."""

_END_TEXTS = frozenset(
    {
        "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>",
        "<|eot|>", "<|return|>", "<|call|>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Special tokens that end a turn in the families of models that have them: most GGUF files name only one end."""


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the others for characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _bytes_of_characters()


def _byte_level(text: str) -> bytes:
    try:
        return bytes([_BYTES[character] for character in text])
    except KeyError:  # a token from elsewhere, which stands for itself
        return text.encode("utf-8", "replace")


def _with_spaces(text: str) -> bytes:
    return text.replace(SPACE, " ").encode("utf-8", "replace")


def _byte(text: str) -> bytes:
    """The byte that SentencePiece writes as <0x0A>."""
    try:
        return bytes([int(text[3:-1], 16)])
    except ValueError:
        raise EngineError(
            f"the token {quoted(text)} is said to be a byte and names none; the file is damaged."
        ) from None


def _as_it_is(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _nothing(_text: str) -> bytes:
    return b""


_SPELLINGS: Mapping[str, Callable[[str], bytes]] = MappingProxyType({"gpt2": _byte_level, "llama": _with_spaces})
"""tokenizer.ggml.model -> what an ordinary token of that kind means."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the model at `path`; `metadata` has GGUF's keys, `ends` the ids after which a text is over."""

    path: Path
    metadata: Mapping[str, Value]
    ends: frozenset[int]
    tokenizer_file: Path | None = None
    """tokenizer.json, where the model has one of its own."""

    @property
    def tokens(self) -> Sequence[str]:
        """The tokens by number, as they are stored."""
        stored: Sequence[str] = self.metadata[f"{PREFIX}.tokens"].value
        return stored

    @property
    def start(self) -> int | None:
        """The token that this model wants before every text; None where it wants none."""
        default = self._stated("model") == "llama"  # llama.cpp's own, which old files rely on
        return self.special("bos") if self._stated("add_bos_token", default) else None

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first space belongs to the tokenizer and not to the text."""
        return self._stated("model") == "llama" and bool(self._stated("add_space_prefix", True))

    def special(self, role: str) -> int | None:
        """The id of the special token `role` ("bos", "eos"); None where the model has none."""
        number = self._stated(f"{role}_token_id")
        return number if isinstance(number, int) and 0 <= number < len(self.tokens) else None

    def special_text(self, role: str) -> str:
        """The special token `role` as a template writes it; empty where the model has none."""
        number = self.special(role)
        return "" if number is None else self.tokens[number]

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Token ids of `text`, after the model's `start` token; one that `text` begins with is not doubled."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if not start or self.start is None or ids[:1] == [self.start] else [self.start, *ids]

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text: none for special ones."""
        if not 0 <= token < len(self.tokens):
            return b""  # a padded row of the output
        return self._means.get(self._kinds[token], _nothing)(self.tokens[token])

    def _stated(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{PREFIX}.{key}")
        return default if value is None else value.value

    @cached_property
    def _kinds(self) -> Sequence[int]:
        kinds: Sequence[int] = self._stated("token_type", [TokenKind.NORMAL] * len(self.tokens))
        return kinds

    @cached_property
    def _means(self) -> Mapping[int, Callable[[str], bytes]]:
        ordinary = _SPELLINGS[self._stated("model")]
        return {TokenKind.NORMAL: ordinary, TokenKind.USER_DEFINED: _as_it_is, TokenKind.BYTE: _byte}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer_file is not None:
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(self.tokenizer_file))
        from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(self.metadata)


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokens of a GGUF file or a model directory; EngineError or CheckpointError where it has none that writes."""
    return _of_directory(path) if path.is_dir() else _of_file(path)


def _of_file(path: Path) -> Vocabulary:
    from fewbits.checkpoints.gguf_parts import open_gguf

    metadata = open_gguf(path).metadata
    tokens = metadata.get(f"{PREFIX}.tokens")
    if tokens is None or tokens.type != "array:string":
        raise EngineError(f"{path}: the file holds no tokenizer, so its token ids cannot be read or written as text.")
    return _checked(Vocabulary(path, metadata, _ends(metadata)))


def _of_directory(path: Path) -> Vocabulary:
    from fewbits.checkpoints.configuration import read_configuration
    from fewbits.checkpoints.tokenizer import read_tokenizer

    metadata = read_tokenizer(path, read_configuration(path, quantized=True)).metadata
    own = path / "tokenizer.json"
    return _checked(
        Vocabulary(path, metadata, _ends(metadata) | _generation_ends(path), own if own.is_file() else None)
    )


def _checked(vocabulary: Vocabulary) -> Vocabulary:
    kind = vocabulary.metadata.get(f"{PREFIX}.model")
    if kind is None or kind.value not in _SPELLINGS:
        stated = "no kind" if kind is None else quoted(kind.value)
        known = sorted(_SPELLINGS)
        raise EngineError(f"{vocabulary.path}: its tokenizer is of kind {stated}, and text is written with {known}.")
    kinds = vocabulary.metadata.get(f"{PREFIX}.token_type")
    if kinds is not None and len(kinds.value) != len(vocabulary.tokens):
        raise EngineError(f"{vocabulary.path}: tokens and their types differ in number; the file is damaged.")
    return vocabulary


def _ends(metadata: Mapping[str, Value]) -> frozenset[int]:
    """The tokens that end a text: those that the file names, and special ones that are known to."""
    tokens = metadata[f"{PREFIX}.tokens"].value
    kinds = metadata.get(f"{PREFIX}.token_type")
    special = [] if kinds is None else [n for n, kind in enumerate(kinds.value) if kind == TokenKind.CONTROL]
    known = {n for n in special if n < len(tokens) and tokens[n] in _END_TEXTS}
    named = {metadata[key].value for role in _ENDS if (key := f"{PREFIX}.{role}_token_id") in metadata}
    return frozenset(known | {each for each in named if isinstance(each, int)})


def _generation_ends(directory: Path) -> frozenset[int]:
    """The tokens that generation_config.json ends a text by."""
    from fewbits.checkpoints.jsonfile import load_object

    path = directory / "generation_config.json"
    stated = load_object(path).get("eos_token_id") if path.is_file() else None
    listed = stated if isinstance(stated, list) else [stated]
    return frozenset(each for each in listed if type(each) is int and each >= 0)
