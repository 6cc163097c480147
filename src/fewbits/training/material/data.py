"""What a model is trained on, as a file has it: texts, conversations, or prompts with what is to follow them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.errors import TrainingError

TEXT, MESSAGES, PAIRS = "text", "messages", "prompt and completion"

TEXTS = (".txt", ".text", ".md", ".rst")
LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Sample:
    """One text, conversation or pair; `parts` are (who, what): of a text one part, of a pair two."""

    where: str
    """Where it stands: file and line."""
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Samples:
    """The content of a file."""

    name: str
    sha256: str
    kind: str
    """TEXT, MESSAGES or PAIRS."""
    fields: tuple[str, ...]
    """The fields that were read; none of a text file."""
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)


def read_samples(path: Path, field: str | None = None) -> Samples:
    """The samples in a file; raises TrainingError saying which line is none.

    Lines of JSON have a `field` that is a text or a list of messages (role, content); where none is named, all lines
    have what the first one has of "text", "messages", "conversations", or "prompt" and "completion". A text file is one
    sample.
    """
    suffix = path.suffix.lower()
    if suffix not in TEXTS + LINES:
        known = ", ".join(TEXTS + LINES)
        raise TrainingError(f"{path}: training data ends in one of {known}; convert or rename it.")
    data = _read_bytes(path)
    text = _decoded(path, data)
    if not text.strip():
        raise TrainingError(f"{path} is empty; give a file with at least one text.")
    digest = hashlib.sha256(data).hexdigest()
    if suffix in TEXTS:
        if field is not None:
            raise TrainingError(f"{path} is a text and has no fields; leave out the field {field!r}.")
        return Samples(str(path), digest, TEXT, (), (Sample(str(path), (("", text),)),))
    rows = list(_rows(path, text))
    reader = _reader(rows[0], field)
    samples = tuple(Sample(where, reader.read(where, row)) for where, row in rows)
    return Samples(str(path), digest, reader.kind, reader.fields, samples)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TrainingError(f"{path}: there is no such file of training data.") from None
    except OSError as error:
        raise TrainingError(f"{path}: the training data cannot be read ({error.strerror}).") from None


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from None


def _rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, the object) of each line; of a list of JSON, of each item."""
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        found: Any = _parsed(str(path), text)
        pairs = [(f"{path}, row {number},", row) for number, row in enumerate(found, start=1)]
        if not pairs:
            raise TrainingError(f"{path} is an empty list; give at least one text.")
    else:  # not `splitlines`: JSON strings may hold other ends of lines than \n
        lines = ((f"{path}, line {number},", line) for number, line in enumerate(text.split("\n"), start=1))
        pairs = [(where, _parsed(where, line)) for where, line in lines if line.strip()]
    for where, row in pairs:
        if not isinstance(row, dict):
            raise TrainingError(f'{where} is no object with fields, as {{"text": "..."}} is; correct or remove it.')
        yield where, row


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TrainingError(f"{where} is not valid JSON ({error}); correct or remove it.") from None
    except RecursionError:
        raise TrainingError(f"{where} nests deeper than any training data does; remove it.") from None


# ---- rows


Parts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Reader:
    """What is read of every row."""

    kind: str
    fields: tuple[str, ...]
    parse: Callable[[str, list[Any]], Parts]

    def read(self, where: str, row: Mapping[str, Any]) -> Parts:
        """Who says what in the row at `where`."""
        missing = [name for name in self.fields if row.get(name) is None]
        if missing:
            raise TrainingError(
                f"{where} has no field {missing[0]!r} ({_named(row)}), and every line needs it; correct it, or name "
                "another with --field."
            )
        return self.parse(where, [row[name] for name in self.fields])


def _reader(first: tuple[str, Mapping[str, Any]], field: str | None) -> _Reader:
    where, row = first
    if field is not None:
        conversation = isinstance(row.get(field), list)
        return _Reader(MESSAGES, (field,), _messages) if conversation else _Reader(TEXT, (field,), _text)
    for fields, (kind, parse) in _KNOWN.items():
        if all(row.get(name) is not None for name in fields):
            return _Reader(kind, fields, parse)
    raise TrainingError(
        f'{where} has neither "text" nor "messages" nor "prompt" and "completion" ({_named(row)}); say with '
        "--field which of them is to be read, or rename one."
    )


def _named(row: Mapping[str, Any]) -> str:
    names = ", ".join(repr(key)[:40] for key in list(row)[:8])
    return f"it has {names}" if names else "it has none"


def _text(where: str, values: list[Any]) -> Parts:
    return (("", _string(where, values[0])),)


def _pair(where: str, values: list[Any]) -> Parts:
    prompt, completion = (_string(where, value) for value in values)
    return (("prompt", prompt), ("completion", completion))


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TrainingError(f"{where} has a {type(value).__name__} where a text belongs; correct or remove it.")
    return value


def _messages(where: str, values: list[Any]) -> Parts:
    if not isinstance(values[0], list) or not values[0]:
        raise TrainingError(f"{where} has no list of messages where a conversation belongs; correct or remove it.")
    return tuple(_message(where, message) for message in values[0])


def _message(where: str, message: Any) -> tuple[str, str]:
    fields = message if isinstance(message, dict) else {}
    role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise TrainingError(f"{where} has a message without a role or without a text; correct or remove it.")
    return _ROLES.get(role, role), content


_ROLES: Mapping[str, str] = MappingProxyType({"human": "user", "gpt": "assistant", "model": "assistant"})
"""Other names of roles, as data sets of conversations have them."""

_KNOWN: Mapping[tuple[str, ...], tuple[str, Callable[[str, list[Any]], Parts]]] = MappingProxyType(
    {
        ("text",): (TEXT, _text),
        ("messages",): (MESSAGES, _messages),
        ("conversations",): (MESSAGES, _messages),
        ("prompt", "completion"): (PAIRS, _pair),
    }
)
