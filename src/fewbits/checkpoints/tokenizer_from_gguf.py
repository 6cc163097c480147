"""The way back: a GGUF file's tokenizer metadata as a tokenizer, for when nothing but the GGUF file exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewbits.checkpoints import tokenizer_wordpiece
from fewbits.checkpoints.base import Value
from fewbits.checkpoints.pretokenizers import SPLIT, by_name
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.tokenizer_bytes import NORMALIZER
from fewbits.checkpoints.tokenizer_pieces import PREPEND, SPACE
from fewbits.checkpoints.vocabulary import PREFIX, TokenKind
from fewbits.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_from_gguf(metadata: Mapping[str, Value]) -> Tokenizer:
    """The tokenizer that `metadata` of a GGUF file describes; raises CheckpointError for a kind that is not known."""
    kind = _need(metadata, "model", str)
    if kind == tokenizer_wordpiece.MODEL:
        return _from_pieces(metadata)
    if kind == "gpt2":
        tokenizer = _from_merges(metadata)
    elif kind == "llama":
        tokenizer = _from_scores(metadata)
    else:
        raise CheckpointError(
            f"the GGUF file's tokenizer is of kind {quoted(kind)}; known are 'gpt2', 'llama' and 'bert'."
        )
    _add_special(tokenizer, metadata)
    _surround(tokenizer, metadata)
    return tokenizer


def _need(metadata: Mapping[str, Value], key: str, kind: type) -> Any:
    stated = metadata.get(f"{PREFIX}.{key}")
    if stated is None or not isinstance(stated.value, kind):
        raise CheckpointError(f"the GGUF file states no usable {PREFIX}.{key}, so its tokenizer cannot be rebuilt.")
    value: Any = stated.value
    return list(value) if kind is Sequence else value


def _get(metadata: Mapping[str, Value], key: str, default: Any) -> Any:
    value = metadata.get(f"{PREFIX}.{key}")
    return default if value is None else value.value


def _kinds(metadata: Mapping[str, Value], tokens: list[str]) -> list[int]:
    kinds: list[int] = _get(metadata, "token_type", [TokenKind.NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise CheckpointError(f"the GGUF file has {len(tokens)} tokens but {len(kinds)} token types; it is damaged.")
    return kinds


def _from_merges(metadata: Mapping[str, Value]) -> Tokenizer:
    """Byte-level BPE, whose merges the file lists."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    known = by_name(_need(metadata, "pre", str))
    tokens = _need(metadata, "tokens", Sequence)
    # A part of a merge is never empty, so the separating space is not the first character.
    pairs = [merge.partition(" ") for merge in _need(metadata, "merges", Sequence)]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    for left, _, right in pairs:
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise CheckpointError(
                f"the GGUF file merges {quoted(left)} and {quoted(right)}, which are not all tokens; it is damaged."
            )
    merges = [(left, right) for left, _, right in pairs]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=known.ignore_merges))
    tokenizer.pre_tokenizer = _cutter(known.steps)
    tokenizer.decoder = decoders.ByteLevel()
    stated = metadata.get(NORMALIZER)
    if stated is not None and stated.value == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _from_pieces(metadata: Mapping[str, Value]) -> Tokenizer:
    """WordPiece, which puts a token before a text and a separator after it whatever else the file says."""
    tokens = stored_tokens(metadata)
    unknown = tokens[_numbered(metadata, tokens, "unknown")]
    small = bool(_get(metadata, "normalizer.lowercase", True))
    bare = bool(_get(metadata, "normalizer.strip_accents", small))
    tokenizer = tokenizer_wordpiece.rebuilt(tokens, unknown, lowercase=small, strip_accents=bare)
    _add_special(tokenizer, metadata)
    _between(tokenizer, tokens, _numbered(metadata, tokens, "bos"), _numbered(metadata, tokens, "seperator"))
    return tokenizer


def stored_tokens(metadata: Mapping[str, Value]) -> Sequence[str]:
    """The tokens of a GGUF file as a checkpoint would list them."""
    tokens: list[str] = _need(metadata, "tokens", Sequence)
    if _get(metadata, "model", "") != tokenizer_wordpiece.MODEL:
        return tokens
    return tokenizer_wordpiece.stored_pieces(tokens, _kinds(metadata, tokens))


def _numbered(metadata: Mapping[str, Value], tokens: Sequence[str], role: str) -> int:
    number = _need(metadata, f"{role}_token_id", int)
    if not 0 <= number < len(tokens):
        raise CheckpointError(f"the GGUF file names the special token {number} of {len(tokens)}; it is damaged.")
    return int(number)


def _cutter(steps: tuple[str, ...]) -> Any:
    from tokenizers import Regex, pre_tokenizers

    makers: dict[str, Callable[[], Any]] = {
        "Digits": lambda: pre_tokenizers.Digits(individual_digits=True),
        "Digits in groups": lambda: pre_tokenizers.Digits(individual_digits=False),
        "Punctuation contiguous": lambda: pre_tokenizers.Punctuation("contiguous"),
        "ByteLevel": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "ByteLevel regex": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    }

    def one(step: str) -> Any:
        if step.startswith(SPLIT):
            return pre_tokenizers.Split(Regex(step[len(SPLIT) :]), behavior="isolated")
        return makers[step]()

    return pre_tokenizers.Sequence([one(step) for step in steps])


def _joins(tokens: list[str], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best score first: what the scores of the 'llama' kind mean."""
    whole = {
        text: number
        for number, text in enumerate(tokens)
        if kinds[number] in (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
    }
    found = [
        (-scores[number], whole[text[:i]], whole[text[i:]], text[:i], text[i:])
        for text, number in whole.items()
        for i in range(1, len(text))
        if text[:i] in whole and text[i:] in whole
    ]
    return [(left, right) for _, _, _, left, right in sorted(found)]


def _from_scores(metadata: Mapping[str, Value]) -> Tokenizer:
    """SentencePiece BPE, whose merges follow from the scores."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = _need(metadata, "tokens", Sequence)
    kinds, scores = _kinds(metadata, tokens), _need(metadata, "scores", Sequence)
    if len(scores) != len(tokens):
        raise CheckpointError(f"the GGUF file has {len(tokens)} tokens but {len(scores)} scores; it is damaged.")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    unknown = next((text for text, kind in zip(tokens, kinds, strict=True) if kind == TokenKind.UNKNOWN), None)
    merges = _joins(tokens, kinds, scores)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    scheme = "plain" if _get(metadata, "add_space_prefix", True) else "never"
    stated = metadata.get(PREPEND)
    if stated is not None and stated.value in ("first", "always"):
        scheme = stated.value
    if scheme == "plain":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if scheme != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _add_special(tokenizer: Tokenizer, metadata: Mapping[str, Value]) -> None:
    from tokenizers import AddedToken

    tokens = _need(metadata, "tokens", Sequence)
    kinds = list(zip(tokens, _kinds(metadata, tokens), strict=True))
    special = [text for text, kind in kinds if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN)]
    defined = [text for text, kind in kinds if kind == TokenKind.USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in defined])


def _surround(tokenizer: Tokenizer, metadata: Mapping[str, Value]) -> None:
    """Put the start and end tokens around a text where the file says so."""
    tokens = _need(metadata, "tokens", Sequence)
    # llama.cpp's own default for the 'llama' kind, which old files rely on.
    default = _get(metadata, "model", "") == "llama"
    before = _get(metadata, "bos_token_id", None) if _get(metadata, "add_bos_token", default) else None
    after = _get(metadata, "eos_token_id", None) if _get(metadata, "add_eos_token", False) else None
    for number in (before, after):
        if number is not None and not 0 <= number < len(tokens):
            raise CheckpointError(f"the GGUF file names the special token {number} of {len(tokens)}; it is damaged.")
    _between(tokenizer, tokens, before, after)


def _between(tokenizer: Tokenizer, tokens: Sequence[str], before: int | None, after: int | None) -> None:
    """Put the tokens of these numbers before and after every text."""
    from tokenizers import processors

    special = [(tokens[number], number) for number in (before, after) if number is not None]
    if special:
        start = [f"{tokens[before]}:0"] if before is not None else []
        end = [f"{tokens[after]}:0"] if after is not None else []
        tokenizer.post_processor = processors.TemplateProcessing(single=[*start, "$A:0", *end], special_tokens=special)
