"""Special tokens, what is put around a text, and chat templates, as GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.quoting import named, quoted
from fewbits.checkpoints.vocabulary import PREFIX, TokenizerSource
from fewbits.errors import CheckpointError

# "seperator" is how GGUF spells it.
_KEYS: Mapping[str, str] = MappingProxyType(
    {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
)


_PAIRS = ("BertProcessing", "RobertaProcessing")
"""Post-processors of encoders, which put one token before a text and one after it."""


def _stated_text(settings: Mapping[str, Any], role: str) -> str | None:
    stated = settings.get(f"{role}_token")
    text = stated.get("content") if isinstance(stated, dict) else stated
    return text if isinstance(text, str) else None


def _stated_number(config: Mapping[str, Any], role: str, rows: int) -> int | None:
    stated = config.get(f"{role}_token_id")
    number = stated[0] if isinstance(stated, list) and stated else stated
    return number if type(number) is int and 0 <= number < rows else None


def special_tokens(source: TokenizerSource, config: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Value]:
    """Numbers of the special tokens, and whether one is put before and after a text.

    The tokenizer's own word counts before the configuration's. Raises CheckpointError when a text gets more around it
    than GGUF can state.
    """
    found: dict[str, int] = {}
    for role in _KEYS:
        text = _stated_text(source.settings, role)
        if text is None and role == "unk" and source.data:
            text = _stated_text(source.data["model"], role)
        number = numbers.get(text) if text is not None else _stated_number(config, role, source.rows)
        if number is not None:
            found[role] = number
    before, after = _around(source, numbers, found)
    if before is not None:
        found["bos"] = before
    if after is not None:
        found["eos"] = after
    ids = {f"{PREFIX}.{_KEYS[role]}_token_id": Value(number, "uint32") for role, number in found.items()}
    return ids | {
        f"{PREFIX}.add_bos_token": Value(before is not None, "bool"),
        f"{PREFIX}.add_eos_token": Value(after is not None, "bool"),
    }


def _around(
    source: TokenizerSource, numbers: Mapping[str, int], found: Mapping[str, int]
) -> tuple[int | None, int | None]:
    """The tokens before and after every text, as the post-processor of tokenizer.json states them."""
    if not source.data:
        # A bare SentencePiece model says nothing; Llama's tokenizer class adds the token before the text.
        add_bos, add_eos = source.settings.get("add_bos_token", True), source.settings.get("add_eos_token", False)
        return (found.get("bos") if add_bos else None), (found.get("eos") if add_eos else None)
    before, after = _template(source, source.data.get("post_processor"))
    if len(before) > 1 or len(after) > 1 or any(text not in numbers for text in before + after):
        raise CheckpointError(
            f"{source.path} puts {quoted(before)} before and {quoted(after)} after a text; a GGUF file can state one "
            "known token each."
        )
    return (numbers[before[0]] if before else None), (numbers[after[0]] if after else None)


def contradictions(source: TokenizerSource, metadata: Mapping[str, Value]) -> tuple[str, ...]:
    """A sentence for each setting of tokenizer_config.json that tokenizer.json contradicts."""
    notes = []
    for name in ("add_bos_token", "add_eos_token"):
        stated, done = source.settings.get(name), metadata.get(f"{PREFIX}.{name}")
        if isinstance(stated, bool) and done is not None and stated is not done.value:
            notes.append(
                f"tokenizer_config.json states {name} = {str(stated).lower()} and tokenizer.json does otherwise; "
                "tokenizer.json counts, as in transformers."
            )
    return tuple(notes)


def _template(source: TokenizerSource, stated: Any) -> tuple[list[str], list[str]]:
    """Texts of the tokens that a post-processor puts before and after a single text."""
    if stated is None:
        return [], []
    kind = stated.get("type") if isinstance(stated, dict) else None
    if kind == "ByteLevel":
        return [], []
    if kind in _PAIRS and all(isinstance(stated.get(end), list) and stated[end] for end in ("cls", "sep")):
        return [str(stated["cls"][0])], [str(stated["sep"][0])]
    if kind == "Sequence":
        parts = [_template(source, part) for part in stated.get("processors") or []]
        return [t for before, _ in reversed(parts) for t in before], [t for _, after in parts for t in after]
    pieces = stated.get("single") if kind == "TemplateProcessing" else None
    if not isinstance(pieces, list):
        raise CheckpointError(f"{source.path} has the post-processor {named(kind)}, which a GGUF file cannot state.")
    texts = [_special_text(piece) for piece in pieces]
    if texts.count(None) != 1:
        raise CheckpointError(f"{source.path} puts a single text together from {len(texts)} odd pieces; it is damaged.")
    middle = texts.index(None)
    return [t for t in texts[:middle] if t], [t for t in texts[middle + 1 :] if t]


def _special_text(piece: Any) -> str | None:
    """The special token that a piece of a template stands for; None where it stands for the text."""
    special = piece.get("SpecialToken") if isinstance(piece, dict) else None
    return str(special.get("id")) if isinstance(special, dict) else None


def chat_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, Value]:
    """The chat template and any further named ones; a file of their own counts before tokenizer_config.json."""
    jinja, wrapped = directory / "chat_template.jinja", directory / "chat_template.json"
    stated: Any = settings.get("chat_template")
    if jinja.is_file():
        stated = _text(jinja)
    elif wrapped.is_file():
        stated = load_object(wrapped).get("chat_template")
    named = {"default": stated} if isinstance(stated, str) else _named(stated)
    key = "tokenizer.chat_template"
    result = {key if name == "default" else f"{key}.{name}": Value(text, "string") for name, text in named.items()}
    others = [name for name in named if name != "default"]
    return result | ({f"{key}s": Value(others, "array:string")} if others else {})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None


def _named(stated: Any) -> dict[str, str]:
    if not isinstance(stated, list):
        return {}
    pairs = [(t.get("name"), t.get("template")) for t in stated if isinstance(t, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
