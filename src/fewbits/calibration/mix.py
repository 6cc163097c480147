"""The calibration text that needs no file: what every Python carries, and pages written for it.

Five parts, so that prose, code, conversation and other languages all reach the matrices: the manual of the language
(`pydoc_data.topics`), sources of the standard library, this project's own documents, dialogues, and pages in other
languages and scripts. The last three are package data, as is the guard's text, which shares no sentence with them.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from fewbits.calibration.documents import Conversation, Document, Message, Part, Source, plain

SHARES: Mapping[str, float] = MappingProxyType(
    {"manual": 0.30, "code": 0.25, "documents": 0.10, "dialogue": 0.15, "languages": 0.20}
)
"""Part -> its share of the windows; where one has fewer, the others give more."""

CODE_CHARACTERS_PER_TOKEN = 4
"""Text of the standard library that is read for each token wanted of all parts together: four times its share."""

LONGEST_MODULE = 32_768
"""Characters of a module that count, so that a few large ones do not speak for all."""

_NO_PROSE = frozenset({"pydoc_data", "encodings", "ensurepip", "idlelib", "lib2to3", "test", "turtledemo", "this"})
"""Packages that are tables, tests or other programs; the manual is a part of its own."""


def default_mix(tokens: int, seed: int) -> tuple[Part, ...]:
    """The parts of the mix, with sources enough for `tokens` tokens; `seed` chooses the modules."""
    sources = {
        "manual": _manual(),
        "code": _standard_library(CODE_CHARACTERS_PER_TOKEN * tokens, seed),
        "documents": _documents("documents", lambda text: [text]),
        "dialogue": _documents("dialogue", dialogues),
        "languages": _documents("languages", lambda text: [text]),
    }
    return tuple(Part(name, share, sources[name]) for name, share in SHARES.items())


def guard_text() -> str:
    """Text for the guard alone: other pages than those of the mix, of many kinds, more than 4,096 tokens of them."""
    return "\n\n".join(text for _, text in _texts("guard"))


def dialogues(text: str) -> Iterator[Conversation]:
    """The conversations of a text: turns begin with "User: " or "Assistant: ", a line of dashes ends a conversation.

    >>> [[message.role for message in one] for one in dialogues("User: a\\n\\nAssistant: b\\nc\\n----\\nUser: d")]
    [['user', 'assistant'], ['user']]
    """
    for one in text.split("\n----\n"):
        turns: list[list[str]] = []
        for line in one.strip().split("\n"):
            role, mark, rest = line.partition(": ")
            if mark and role in _ROLES:
                turns.append([role.lower(), rest])
            elif turns:
                turns[-1].append(line)
        yield tuple(Message(role, "\n".join(lines).strip()) for role, *lines in turns)


_ROLES = frozenset({"System", "User", "Assistant"})


def _source(name: str, documents: Iterable[Document]) -> Source:
    kept = tuple(documents)
    text = "\0".join(document if isinstance(document, str) else plain(document) for document in kept)
    return Source(name, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), kept)


def _manual() -> tuple[Source, ...]:
    from pydoc_data.topics import topics

    name = f"pydoc_data.topics of Python {sys.version_info.major}.{sys.version_info.minor}"
    return (_source(name, (topics[name].strip() for name in sorted(topics))),)


def _standard_library(characters: int, seed: int) -> tuple[Source, ...]:
    """Modules in an order that `seed` gives them, as many as hold `characters`; their hashes say which Python's."""
    library = Path(sysconfig.get_path("stdlib"))
    found = [file for module in sorted(sys.stdlib_module_names - _NO_PROSE) for file in _files(library, module)]
    found.sort(key=lambda file: hashlib.sha256(f"{seed} {file.relative_to(library).as_posix()}".encode()).digest())
    sources: list[Source] = []
    for file in found:
        text = file.read_text(encoding="utf-8", errors="replace")[:LONGEST_MODULE]
        sources.append(_source(f"{file.relative_to(library).as_posix()} of the standard library", [text]))
        characters -= len(text)
        if characters <= 0:
            break
    return tuple(sources)


def _files(library: Path, module: str) -> list[Path]:
    """The sources of one module of the standard library; none of those that are compiled into Python."""
    if (library / f"{module}.py").is_file():
        return [library / f"{module}.py"]
    tests = {"test", "tests", "idle_test"}
    return [file for file in sorted((library / module).rglob("*.py")) if not tests & set(file.parts)]


def _documents(kind: str, split: Callable[[str], Iterable[Document]]) -> tuple[Source, ...]:
    return tuple(_source(f"texts/{name}", split(text)) for name, text in _texts(kind))


def _texts(kind: str) -> list[tuple[str, str]]:
    """(name, text) of the package's texts of one kind: files KIND.txt and KIND-*.txt, in the order of their names."""
    folder = resources.files("fewbits.calibration") / "texts"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".txt")), key=lambda e: e.name)
    return [(e.name, e.read_text(encoding="utf-8")) for e in entries if e.name.split(".")[0].split("-")[0] == kind]
