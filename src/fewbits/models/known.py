"""Every architecture that is known: those that come with fewbits, and those that the user adds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from fewbits.errors import CheckpointError
from fewbits.models.architecture import Architecture
from fewbits.models.parsing import read_architecture

DIRECTORY = "FEWBITS_ARCHITECTURES"
"""The environment variable that names a directory of the user's own TOML files."""

_given: dict[str, Architecture] = {}
"""Those of `--architecture`, by name."""


def add_architecture(path: Path) -> Architecture:
    """Make the architecture of the TOML file `path` known; raises CheckpointError where a line of it is wrong.

    One with the name of another takes its place.
    """
    found = _read(path)
    _given[found.name] = found
    return found


def architectures() -> tuple[Architecture, ...]:
    """Every known architecture, the user's own first, then ordered by name.

    Raises CheckpointError where a file of the user's is wrong.
    """
    own = {**{each.name: each for each in _of_directory()}, **_given}
    return (*own.values(), *(each for each in _built_in() if each.name not in own))


@cache
def _built_in() -> tuple[Architecture, ...]:
    files = resources.files("fewbits.models").iterdir()
    texts = {f.name: f.read_text(encoding="utf-8") for f in files if f.name.endswith(".toml")}
    return tuple(read_architecture(texts[name], name) for name in sorted(texts))


def _of_directory() -> tuple[Architecture, ...]:
    """Those in the directory that the environment names."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return ()
    if not Path(directory).is_dir():
        raise CheckpointError(f"{DIRECTORY} names {directory}, which is no directory; correct or unset it.")
    return tuple(_read(path) for path in sorted(Path(directory).glob("*.toml")))


def _read(path: Path) -> Architecture:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise CheckpointError(f"the architecture {path} cannot be read: {reason}.") from None
    return _cached(text, str(path))


@cache
def _cached(text: str, where: str) -> Architecture:
    return read_architecture(text, where)


def for_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a Hugging Face configuration names; raises CheckpointError, listing the supported ones."""
    stated = config.get("architectures")
    names = stated if isinstance(stated, list) else [stated]
    for architecture in architectures():
        if names and names[0] in architecture.classes:
            return architecture.of_class(names[0])
    known = ", ".join(sorted(c for a in architectures() for c in a.classes))
    if not names or not isinstance(names[0], str):
        raise CheckpointError(f"the configuration names no architecture ('architectures'). Supported: {known}.")
    raise CheckpointError(f"the architecture {names[0]} is not supported. Supported: {known}.")


def is_encoder(classes: Sequence[str] | None) -> bool:
    """Whether the first of the `classes` that a configuration names is one of an encoder that is known here.

    >>> is_encoder(["BertModel"]), is_encoder(["LlamaForCausalLM"]), is_encoder(None)
    (True, False, False)
    """
    first = classes[0] if classes else None
    return any(a.encoder and first in a.classes for a in architectures())


def for_gguf(name: str, *, experts: bool = False, metadata: Mapping[str, Any] | None = None) -> Architecture:
    """The first architecture, with or without experts, that GGUF files with `metadata` call `name`.

    Where several of ours share the name, one that the metadata tell by a value comes before one that nothing tells.
    Raises CheckpointError, listing the supported ones.
    """
    stated = metadata or {}
    found = [
        each
        for each in architectures()
        if each.gguf == name
        and each.experts == experts
        and all(stated.get(key) == value for key, value in each.told_by.items())
    ]
    if found:
        return max(found, key=lambda each: len(each.told_by))
    known = ", ".join(sorted({a.gguf for a in architectures()}))
    having = " with experts" if experts else ""
    raise CheckpointError(f"the GGUF architecture {shown(name)}{having} is not supported. Supported: {known}.")
