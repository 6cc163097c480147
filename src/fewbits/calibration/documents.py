"""What a calibration text consists of: documents, which are strings or conversations, each source with its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fewbits.errors import CalibrationError


@dataclass(frozen=True)
class Message:
    """What one side of a conversation says at a time; `role` is system, user, assistant or tool."""

    role: str
    content: str


Conversation = tuple[Message, ...]
Document = str | Conversation


@dataclass(frozen=True)
class Source:
    """Documents that came from one place: a file, a directory, or what a caller gave."""

    name: str
    sha256: str
    documents: tuple[Document, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Sources that are packed into windows together; `share` of all windows is wanted from them."""

    name: str
    share: float
    sources: tuple[Source, ...]


ROLES: Mapping[str, str] = MappingProxyType(
    {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
)
"""Other names of roles, as data sets of conversations have them."""


def plain(conversation: Conversation) -> str:
    """A conversation as a text, for tokenizers without a chat template.

    >>> plain((Message("user", "What is a span?"), Message("assistant", "Columns that are fitted together.")))
    'User: What is a span?\\n\\nAssistant: Columns that are fitted together.'
    """
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in conversation)


def size(document: Document) -> int:
    """Characters of a document."""
    return len(document) if isinstance(document, str) else sum(len(message.content) for message in document)


def from_rows(rows: Iterable[tuple[str, object]]) -> tuple[Document, ...]:
    """The documents of rows as data sets hold them, each (where it stands, row).

    A row has its text as "text", or a conversation as "messages" (role, content) or "conversations" (from, value).
    Raises CalibrationError saying where a row is none of these.
    """
    return tuple(from_row(where, row) for where, row in rows)


def from_row(where: str, row: object) -> Document:
    """The document of one row that stands at `where`."""
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping):
        raise CalibrationError(f'{where} is no object; give objects with "text", "messages" or "conversations".')
    for field, read in _FIELDS.items():
        if row.get(field) is not None:
            return read(where, row[field])
    named = ", ".join(repr(key)[:40] for key in list(row)[:8]) or "no field at all"
    raise CalibrationError(f'{where} has neither "text" nor "messages" nor "conversations" (but {named}); rename one.')


def _text(where: str, value: object) -> Document:
    if not isinstance(value, str):
        raise CalibrationError(f'{where} has a "text" that is no string; correct or remove it.')
    return value


def _conversation(where: str, value: object) -> Document:
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, Iterable) or isinstance(messages, str):
        raise CalibrationError(f"{where} has a conversation that is no list of messages; correct or remove it.")
    return tuple(_message(where, message) for message in messages)


def _message(where: str, value: object) -> Message:
    fields = value if isinstance(value, Mapping) else {}
    role, content = fields.get("role", fields.get("from")), _content(fields.get("content", fields.get("value")))
    if not isinstance(role, str) or content is None:
        raise CalibrationError(f"{where} has a message without a role or without content; correct or remove it.")
    return Message(ROLES.get(role, role), content)


def _content(value: object) -> str | None:
    """The text of a message; of one in parts, the texts among its parts."""
    if isinstance(value, list):
        return "".join(str(part["text"]) for part in value if isinstance(part, Mapping) and "text" in part)
    return value if isinstance(value, str) else None


_FIELDS: Mapping[str, Callable[[str, Any], Document]] = MappingProxyType(
    {"text": _text, "messages": _conversation, "conversations": _conversation}
)


def given(items: Iterable[object], name: str) -> Source:
    """The texts, or rows of a data set, that a caller gave."""
    documents = from_rows((f"{name}, item {number},", item) for number, item in enumerate(items))
    digest = hashlib.sha256()
    for document in documents:
        text = document if isinstance(document, str) else plain(document)
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    return Source(name, digest.hexdigest(), documents)
