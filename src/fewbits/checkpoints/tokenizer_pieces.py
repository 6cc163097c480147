"""SentencePiece BPE (Llama 2, Mistral 7B, TinyLlama) as GGUF metadata, from tokenizer.json or tokenizer.model.

GGUF states no merges for this kind: a reader joins whatever neighbours form the token of the highest score. So scores
are made from the order of the merges, and it is checked that the vocabulary allows no other joins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.quoting import named, quoted
from fewbits.checkpoints.sentencepiece_model import BPE, read_model
from fewbits.checkpoints.tokenizer_bytes import TokenizerVocabulary, merge_pairs
from fewbits.checkpoints.vocabulary import PREFIX, AddedToken, TokenizerSource, TokenKind, Vocabulary, added_tokens
from fewbits.errors import CheckpointError

SPACE = "\u2581"
"""SentencePiece writes spaces as this character."""

PREPEND = "fewbits.tokenizer.prepend_scheme"
"""Our own key, where a space is put before text in another way than llama.cpp does: tokenizers' Metaspace schemes.

"first" = before the text, "always" = also after special tokens; both only where there is none yet. Without the key,
llama.cpp's way: before the text and after special tokens, whatever follows.
"""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def from_json(source: TokenizerSource) -> TokenizerVocabulary:
    """The SentencePiece BPE tokenizer in tokenizer.json; raises CheckpointError when GGUF cannot state it."""
    model: Mapping[str, Any] = source.data["model"]
    if model.get("ignore_merges"):
        raise CheckpointError(f"{source.path} is of SentencePiece's kind with ignore_merges, which GGUF cannot state.")
    pairs = merge_pairs(source)
    scheme = _prepend_scheme(source)
    vocabulary = Vocabulary(source.path, source.rows)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    unknown = model.get("unk_token")
    for text, number in model["vocab"].items():
        kind = TokenKind.BYTE if _BYTE.fullmatch(text) else TokenKind.NORMAL
        score = -float(ranks.get(text, len(pairs)))
        vocabulary.put(number, text, TokenKind.UNKNOWN if text == unknown else kind, score)
    unknowns = {number for number, kind in vocabulary.kinds.items() if kind is TokenKind.UNKNOWN}
    added = [token for token in _plain_spaces(added_tokens(source)) if token.number not in unknowns]
    vocabulary.add(added, score=-float(len(pairs) + 1))
    notes = [*_prefix_note(scheme), *_stray_note(vocabulary, set(pairs))]
    return _finish(vocabulary, scheme, notes)


def from_model(source: TokenizerSource) -> TokenizerVocabulary:
    """The SentencePiece BPE tokenizer in tokenizer.model; raises CheckpointError when GGUF cannot state it."""
    model = read_model(source.path)
    if model.model_type != BPE:
        raise CheckpointError(
            f"{source.path} is a SentencePiece model of another kind than BPE, which is not supported."
        )
    if model.normalizer not in ("", "identity") or model.remove_extra_whitespaces:
        raise CheckpointError(
            f"{source.path} rewrites text first ({named(model.normalizer or 'identity')}, remove_extra_whitespaces = "
            f"{str(model.remove_extra_whitespaces).lower()}), which a GGUF file cannot state."
        )
    vocabulary = Vocabulary(source.path, source.rows)
    for number, piece in enumerate(model.pieces):
        vocabulary.put(number, piece.text, TokenKind(piece.kind), piece.score)
    unknowns = {number for number, kind in vocabulary.kinds.items() if kind is TokenKind.UNKNOWN}
    lowest = min(vocabulary.scores.values())
    added = [token for token in _plain_spaces(added_tokens(source)) if token.number not in unknowns]
    vocabulary.add(added, score=lowest - 1)
    return _finish(vocabulary, "plain" if model.add_dummy_prefix else "never", [])


def _plain_spaces(tokens: list[AddedToken]) -> list[AddedToken]:
    """GGUF readers look for added tokens in the text as it is, before spaces are rewritten."""
    return [AddedToken(token.number, token.text.replace(SPACE, " "), token.special) for token in tokens]


def _finish(vocabulary: Vocabulary, scheme: str, notes: list[str]) -> TokenizerVocabulary:
    lowest = min(vocabulary.scores.values(), default=0.0)
    scores = [vocabulary.scores.get(number, lowest) for number in range(vocabulary.rows)]
    metadata = {
        f"{PREFIX}.model": Value("llama", "string"),
        f"{PREFIX}.pre": Value("default", "string"),
        **vocabulary.metadata(),
        f"{PREFIX}.scores": Value(scores, "array:float32"),
        f"{PREFIX}.add_space_prefix": Value(scheme != "never", "bool"),
        **({PREPEND: Value(scheme, "string")} if scheme in ("first", "always") else {}),
    }
    return TokenizerVocabulary(metadata, vocabulary.numbers(), (*vocabulary.notes(), *notes))


def _prepend_scheme(source: TokenizerSource) -> str:
    """When a space is put before text: "plain" (as llama.cpp does), "never", or Metaspace's "first" or "always"."""
    normalizer, cutter = source.data.get("normalizer"), source.data.get("pre_tokenizer")
    steps = _flat(normalizer, "normalizers") + _flat(cutter, "pretokenizers")
    scheme, replaced = "never", False
    for step in steps:
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            scheme = "plain"
        elif kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE:
            replaced = True
        elif kind == "Split" and step.get("pattern") == {"String": " "} and replaced:
            pass  # Gemma's: no space is left to cut at
        elif kind == "Metaspace" and step.get("replacement", SPACE) == SPACE and not _cuts(source, step):
            scheme, replaced = _metaspace_scheme(source, step), True
        else:
            raise CheckpointError(f"{source.path} prepares text by {quoted(step)}, which a GGUF file cannot state.")
    if not replaced:
        raise CheckpointError(
            f"{source.path} does not write spaces as '{SPACE}', which GGUF's readers do; not supported."
        )
    return scheme


def _flat(stated: Any, members: str) -> list[dict[str, Any]]:
    if not isinstance(stated, dict):
        return []
    if stated.get("type") == "Sequence":
        return [step for part in stated.get(members) or [] for step in _flat(part, members)]
    return [stated]


def _metaspace_scheme(source: TokenizerSource, step: Mapping[str, Any]) -> str:
    usual = "always" if step.get("add_prefix_space", True) else "never"
    stated = step.get("prepend_scheme", usual)
    if stated not in ("always", "first", "never"):
        raise CheckpointError(f"{source.path} has the prepend_scheme {quoted(stated)}, which is not known.")
    return str(stated)


def _cuts(source: TokenizerSource, step: Mapping[str, Any]) -> bool:
    """Whether cutting at spaces forbids tokens that joining alone would make: those with a space after the start."""
    if not step.get("split", True):
        return False
    return any(SPACE in text[1:] for text in source.data["model"]["vocab"])


def _prefix_note(scheme: str) -> list[str]:
    if scheme not in ("first", "always"):
        return []
    where = "before the text" if scheme == "first" else "before the text and after special tokens,"
    note = (
        f"The tokenizer puts a space {where} only where there is none; llama.cpp puts one there and after every "
        "special token in any case, so text that begins with a space or holds special tokens gets other tokens there."
    )
    return [note]


def _stray_note(vocabulary: Vocabulary, pairs: set[tuple[str, str]]) -> list[str]:
    """A note when GGUF's readers could join tokens that tokenizer.json never joins."""
    known = {t for n, t in vocabulary.texts.items() if vocabulary.kinds[n] is TokenKind.NORMAL}
    strays = [
        text
        for text in known
        if any(
            text[:i] in known and text[i:] in known and (text[:i], text[i:]) not in pairs for i in range(1, len(text))
        )
    ]
    if not strays:
        return []
    note = (
        f"{len(strays)} tokens (such as {quoted(min(strays))}) can be joined in ways that tokenizer.json's merges do "
        "not list; llama.cpp joins them anyway, so some text gets other tokens there."
    )
    return [note]
