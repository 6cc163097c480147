"""The tokenizer of a Hugging Face directory as GGUF metadata; nothing is guessed, what is not known is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.configuration import Configuration
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.limits import TOKENIZER_BYTES, TOKENIZER_VALUES
from fewbits.checkpoints.quoting import named, quoted
from fewbits.checkpoints.tokenizer_bytes import byte_level
from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf
from fewbits.checkpoints.tokenizer_pieces import from_json, from_model
from fewbits.checkpoints.tokenizer_special import chat_templates, contradictions, special_tokens
from fewbits.checkpoints.tokenizer_wordpiece import around, is_wordpiece, word_pieces
from fewbits.checkpoints.vocabulary import TokenizerSource, stripping_notes
from fewbits.errors import CheckpointError

__all__ = ["TokenizerFacts", "read_tokenizer", "tokenizer_from_gguf"]

_SIDE_FILES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer as GGUF metadata, the files it was read from, and what the user should know."""

    metadata: dict[str, Value]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def read_tokenizer(directory: Path, config: Configuration) -> TokenizerFacts:
    """The tokenizer in `directory`; raises CheckpointError when there is none, or one that GGUF cannot state."""
    source = _find(directory, config.values["vocab_size"])
    if not source.data:
        vocabulary = from_model(source)
    elif is_wordpiece(source):
        vocabulary = word_pieces(source)
    elif source.data["model"].get("byte_fallback"):
        vocabulary = from_json(source)
    else:
        vocabulary = byte_level(source)
    special = special_tokens(source, config.values, vocabulary.numbers)
    if is_wordpiece(source):
        special = around(source, special)
    return TokenizerFacts(
        metadata={**vocabulary.metadata, **special, **chat_templates(directory, source.settings)},
        files=(source.path, *(directory / name for name in _SIDE_FILES if (directory / name).is_file())),
        notes=(*vocabulary.notes, *stripping_notes(source), *contradictions(source, special)),
    )


def _find(directory: Path, rows: int) -> TokenizerSource:
    """tokenizer.json, which is what transformers reads, or else the SentencePiece model."""
    stated = directory / "tokenizer_config.json"
    settings = load_object(stated) if stated.is_file() else {}
    path = directory / "tokenizer.json"
    if path.is_file():
        source = TokenizerSource(path, _load(path), settings, rows)
        if not is_wordpiece(source):
            _check_model(path, source.data.get("model"))
        return source
    path = directory / "tokenizer.model"
    if path.is_file():
        return TokenizerSource(path, {}, settings, rows)
    raise CheckpointError(
        f"{directory} has neither tokenizer.json nor tokenizer.model; save it there with transformers "
        "(AutoTokenizer.from_pretrained(...).save_pretrained(DIR))."
    )


def _load(path: Path) -> dict[str, Any]:
    return load_object(path, most_bytes=TOKENIZER_BYTES, most_values=TOKENIZER_VALUES)


def _check_model(path: Path, model: Any) -> None:
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise _unsupported(path, model.get("type") if isinstance(model, dict) else None)
    # Files of 2020 do not state the type; BPE is the one that has merges.
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise _unsupported(path, model.get("type"))
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise CheckpointError(f"{path} sets {key} = {quoted(model[key])}, which a GGUF file cannot state.")


def _unsupported(path: Path, kind: Any) -> CheckpointError:
    return CheckpointError(
        f"{path} holds a {named(kind) if kind else 'nameless'} tokenizer; BPE, also SentencePiece's, and WordPiece are "
        "supported."
    )
