"""WordPiece (BERT's tokenizer) as GGUF metadata, and back.

A word is cut into the longest pieces there are, from its beginning on (Schuster and Nakajima, 2012). Checkpoints mark
pieces inside of words by "##"; GGUF files mark those at their beginning, as SentencePiece does. llama.cpp prepares text
as BERT's own normalizer does, and of that a file can state two things: whether letters become small, and whether
accents go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.tokenizer_bytes import TokenizerVocabulary
from fewbits.checkpoints.tokenizer_pieces import SPACE
from fewbits.checkpoints.vocabulary import PREFIX, TokenizerSource, TokenKind, Vocabulary, added_tokens
from fewbits.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL = "bert"
"""GGUF's name for this kind of tokenizer."""

INSIDE = "##"
"""How checkpoints mark a piece that does not begin a word."""

LOWERCASE, STRIP_ACCENTS = f"{PREFIX}.normalizer.lowercase", f"{PREFIX}.normalizer.strip_accents"

LONGEST_WORD = 100
"""Characters of a word beyond which BERT gives up: it becomes one unknown token. llama.cpp knows no such limit."""


def is_wordpiece(source: TokenizerSource) -> bool:
    """Whether tokenizer.json holds a tokenizer of this kind."""
    model = source.data.get("model")
    return isinstance(model, dict) and model.get("type") == "WordPiece"


def word_pieces(source: TokenizerSource) -> TokenizerVocabulary:
    """The WordPiece tokenizer of `source`; raises CheckpointError when GGUF cannot state it."""
    model = source.data["model"]
    _check_model(source, model)
    lowercase, strip_accents = _normalizer(source)
    vocabulary = Vocabulary(source.path, source.rows)
    added = {token.number for token in added_tokens(source)}
    for text, number in model["vocab"].items():
        stays = type(number) is int and number in added
        vocabulary.put(number, text if stays else _marked(text), TokenKind.NORMAL)
    vocabulary.add(added_tokens(source))
    metadata = {
        f"{PREFIX}.model": Value(MODEL, "string"),
        f"{PREFIX}.pre": Value("default", "string"),
        **vocabulary.metadata(),
        LOWERCASE: Value(lowercase, "bool"),
        STRIP_ACCENTS: Value(strip_accents, "bool"),
    }
    notes = (*vocabulary.notes(), *_cased(lowercase, strip_accents), *_korean(model["vocab"], strip_accents))
    return TokenizerVocabulary(metadata, vocabulary.numbers(), notes)


def _marked(text: str) -> str:
    """A piece as GGUF files spell it.

    >>> _marked("token"), _marked("##ize")
    ('▁token', 'ize')
    """
    return text.removeprefix(INSIDE) if text.startswith(INSIDE) else SPACE + text


def _check_model(source: TokenizerSource, model: Mapping[str, Any]) -> None:
    unknown = model.get("unk_token")
    if not isinstance(model.get("vocab"), dict) or not isinstance(unknown, str) or unknown not in model["vocab"]:
        raise CheckpointError(f"{source.path} holds a WordPiece tokenizer without tokens or without an unknown one.")
    if model.get("continuing_subword_prefix", INSIDE) != INSIDE:
        raise CheckpointError(
            f"{source.path} marks pieces inside of words by {quoted(model['continuing_subword_prefix'])}, and a GGUF "
            f"file can state {INSIDE} alone."
        )
    cutter = source.data.get("pre_tokenizer")
    if not isinstance(cutter, dict) or cutter.get("type") != "BertPreTokenizer":
        raise CheckpointError(f"{source.path} cuts text by {quoted(cutter)}, where GGUF's readers cut as BERT does.")


def _normalizer(source: TokenizerSource) -> tuple[bool, bool]:
    """Whether letters become small, and whether accents go."""
    found = source.data.get("normalizer")
    stated: dict[str, Any] = found if isinstance(found, dict) else {}
    usual = stated.get("type") == "BertNormalizer"
    if not usual or not stated.get("clean_text", True) or not stated.get("handle_chinese_chars", True):
        raise CheckpointError(
            f"{source.path} prepares text by {quoted(found)}, where GGUF's readers clean it and set Chinese characters "
            "apart as BERT does."
        )
    lowercase, accents = bool(stated.get("lowercase", True)), stated.get("strip_accents")
    return lowercase, lowercase if accents is None else bool(accents)


def _cased(lowercase: bool, strip_accents: bool) -> list[str]:
    if lowercase and strip_accents:
        return []
    kept = " and ".join(what for what, gone in (("capitals", lowercase), ("accents", strip_accents)) if not gone)
    note = f"The tokenizer keeps {kept}; builds of llama.cpp that do not know the key {LOWERCASE} drop them."
    return [note]


def _korean(vocabulary: Mapping[str, int], strip_accents: bool) -> list[str]:
    """A note where the tokenizer takes Korean syllables apart on its way to drop accents, and knows their parts."""
    if not strip_accents or not any(_VOWELS[0] <= letter <= _VOWELS[1] for text in vocabulary for letter in text):
        return []
    note = (
        "The tokenizer takes Korean syllables apart, and llama.cpp keeps the first letter of each alone: Korean text "
        "gets fewer tokens there."
    )
    return [note]


_VOWELS = ("\u1161", "\u1175")
"""Vowels of Korean syllables that were taken apart (Unicode's Hangul Jamo)."""


def around(source: TokenizerSource, special: Mapping[str, Value]) -> dict[str, Value]:
    """The metadata of special tokens as files of this kind state them: one before a text and a separator after it.

    Raises CheckpointError where the tokenizer does otherwise: readers put both there whatever a file says.
    """
    before, after = (special.get(f"{PREFIX}.{role}_token_id") for role in ("bos", "eos"))
    if not (special[f"{PREFIX}.add_bos_token"].value and special[f"{PREFIX}.add_eos_token"].value):
        raise CheckpointError(
            f"{source.path} does not put a token before and one after a text, as GGUF's readers of WordPiece do."
        )
    assert before is not None and after is not None, "special_tokens names those that are put around"  # noqa: PT018
    kept = {key: value for key, value in special.items() if not key.startswith((f"{PREFIX}.eos", f"{PREFIX}.add_eos"))}
    return kept | {
        f"{PREFIX}.cls_token_id": before,
        f"{PREFIX}.seperator_token_id": after,
        f"{PREFIX}.add_sep_token": Value(True, "bool"),
    }


def stored_pieces(tokens: Sequence[str], kinds: Sequence[int]) -> list[str]:
    """Tokens of a GGUF file of this kind as checkpoints spell them.

    >>> stored_pieces(["[CLS]", "\\u2581token", "ize"], [3, 1, 1])
    ['[CLS]', 'token', '##ize']
    """
    return [_as_stored(text, kind) for text, kind in zip(tokens, kinds, strict=True)]


def _as_stored(text: str, kind: int) -> str:
    if kind in (TokenKind.CONTROL, TokenKind.USER_DEFINED):
        return text
    if text.startswith(SPACE):
        return text.removeprefix(SPACE)
    return text if kind == TokenKind.UNUSED else INSIDE + text


def rebuilt(tokens: Sequence[str], unknown: str, *, lowercase: bool, strip_accents: bool) -> Tokenizer:
    """The tokenizer of pieces as checkpoints spell them; special tokens are the caller's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {text: number for number, text in enumerate(tokens)}
    pieces = models.WordPiece(
        vocabulary, unk_token=unknown, continuing_subword_prefix=INSIDE, max_input_chars_per_word=LONGEST_WORD
    )
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    return tokenizer
