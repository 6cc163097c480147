"""Byte-level BPE (GPT-2's kind: Llama 3, Qwen, Mistral Nemo) as GGUF metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.pretokenizers import recognise
from fewbits.checkpoints.quoting import named, quoted
from fewbits.checkpoints.vocabulary import PREFIX, TokenizerSource, TokenKind, Vocabulary, added_tokens
from fewbits.errors import CheckpointError

NORMALIZER = "fewbits.tokenizer.normalizer"
"""Our own key for what GGUF has no key for, so that the way back to a tokenizer is exact."""


@dataclass(frozen=True)
class TokenizerVocabulary:
    """A vocabulary as metadata, its tokens' numbers, and what the user should know."""

    metadata: dict[str, Value]
    numbers: dict[str, int]
    notes: tuple[str, ...]


def byte_level(source: TokenizerSource) -> TokenizerVocabulary:
    """The byte-level BPE tokenizer of `source`; raises CheckpointError when GGUF cannot state it."""
    model = source.data["model"]
    kind = recognise(source.path, source.data.get("pre_tokenizer"), bool(model.get("ignore_merges")))
    vocabulary = Vocabulary(source.path, source.rows)
    for text, number in model["vocab"].items():
        vocabulary.put(number, text, TokenKind.NORMAL)
    vocabulary.add(added_tokens(source))
    normalizer, notes = _normalizer(source)
    metadata = {
        f"{PREFIX}.model": Value("gpt2", "string"),
        f"{PREFIX}.pre": Value(kind.name, "string"),
        **vocabulary.metadata(),
        f"{PREFIX}.merges": Value(joined_merges(source), "array:string"),
        **normalizer,
    }
    return TokenizerVocabulary(metadata, vocabulary.numbers(), (*vocabulary.notes(), *notes))


def merge_pairs(source: TokenizerSource) -> list[tuple[str, str]]:
    """The merges of tokenizer.json in order, from either of its spellings ("a b" or ["a", "b"])."""
    result = []
    for raw in source.data["model"]["merges"]:
        pair: Any = raw.split(" ") if isinstance(raw, str) else raw
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise CheckpointError(f"{source.path} has a merge that joins no two tokens: {quoted(raw)}; damaged.")
        result.append((pair[0], pair[1]))
    return result


def joined_merges(source: TokenizerSource) -> list[str]:
    """The merges with a space between their parts, which therefore must hold none."""
    pairs = merge_pairs(source)
    for left, right in pairs:
        if " " in left or " " in right:
            raise CheckpointError(
                f"{source.path} merges {quoted(left)} and {quoted(right)}: a GGUF file cannot state spaces there."
            )
    return [f"{left} {right}" for left, right in pairs]


def _normalizer(source: TokenizerSource) -> tuple[dict[str, Value], list[str]]:
    stated = source.data.get("normalizer")
    if stated is None or stated == {"type": "Sequence", "normalizers": []}:
        return {}, []
    kind = stated.get("type") if isinstance(stated, dict) else None
    if kind != "NFC":
        raise CheckpointError(f"{source.path} normalizes text by {named(kind)}, which a GGUF file cannot state.")
    note = (
        "The tokenizer composes characters (NFC) before it cuts text, and llama.cpp does not: text with decomposed "
        "accents gets other tokens there."
    )
    return {NORMALIZER: Value("NFC", "string")}, [note]
