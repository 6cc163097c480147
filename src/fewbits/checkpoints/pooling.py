"""How the states of an encoder's tokens become one embedding: what a directory says, and GGUF's word for it.

Directories of sentence encoders list their steps in modules.json, the network first, and describe the step that pools
in a folder of its own. A directory without that file leaves pooling to whoever asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.jsonfile import load_object, parse_object
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

MODULES = "modules.json"

NUMBERS: Mapping[str, int] = MappingProxyType({"mean": 1, "cls": 2, "last": 3})
"""Pooling -> GGUF's number for it (llama_pooling_type); 0 there means none, and 4 a classifier."""

_STATED: Mapping[str, str] = MappingProxyType(
    {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
)
"""Key of a pooling step's config.json -> pooling."""

_MODES: Mapping[str, str] = MappingProxyType({"mean": "mean", "cls": "cls", "lasttoken": "last"})
"""The same for the one key of newer files, `pooling_mode`."""

_STEPS = frozenset({"Transformer", "Pooling", "Normalize"})
"""Steps that change nothing of what a file of the network alone can give: a norm changes no angle."""

_OTHER_MODES = "pooling_mode_"


@dataclass(frozen=True)
class Pooling:
    """How states become an embedding, None where nothing says so, and the files that say it."""

    mode: str | None = None
    files: tuple[Path, ...] = ()

    def metadata(self, architecture: str) -> dict[str, Value]:
        """The key of a GGUF file of `architecture`; none where nothing is said."""
        return {} if self.mode is None else {key_of(architecture): Value(NUMBERS[self.mode], "uint32")}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where nothing is said."""
        if self.mode is not None:
            return ()
        note = (
            f"No {MODULES} says how states of tokens become one embedding, so the file does not either: llama.cpp "
            "gives states of tokens until it is told (--pooling mean, for instance)."
        )
        return (note,)


def key_of(architecture: str) -> str:
    """The metadata key of a GGUF file that states the pooling.

    >>> key_of("bert")
    'bert.pooling_type'
    """
    return f"{architecture}.pooling_type"


def mode_of(number: object) -> str | None:
    """The pooling that a GGUF file's number stands for; None for what is no pooling of states.

    >>> mode_of(1), mode_of(0), mode_of(None)
    ('mean', None, None)
    """
    return next((mode for mode, known in NUMBERS.items() if known == number), None)


def read_pooling(directory: Path) -> Pooling:
    """What `directory` says of pooling; raises CheckpointError for a step that no file of ours can hold."""
    path = directory / MODULES
    if not path.is_file():
        return Pooling()
    steps = _steps(path)
    pools = [step for step in steps if _kind(step) == "Pooling"]
    if len(pools) != 1:
        raise CheckpointError(f"{path} names {len(pools)} steps that pool, and one is needed; correct it.")
    folder = Path(str(pools[0].get("path")))
    stated = directory / folder / "config.json"
    # By its spelling: in a cache of the hub the file itself is a link that leads elsewhere.
    if folder.is_absolute() or ".." in folder.parts or not stated.is_file():
        raise CheckpointError(
            f"{path} says that pooling is described in {quoted(str(folder))}, where no config.json is."
        )
    return Pooling(_mode(stated), (path, stated))


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        raw = path.read_bytes()
        listed = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}).") from None
    # An object's checks for each step: no key twice, nothing absurdly deep.
    steps = [
        parse_object(json.dumps(step).encode(), str(path)) for step in (listed if isinstance(listed, list) else [])
    ]
    if not steps:
        raise CheckpointError(f"{path} lists no steps; correct or remove it.")
    strange = next((step for step in steps if _kind(step) not in _STEPS), None)
    if strange is not None:
        raise CheckpointError(
            f"{path} has the step {quoted(strange.get('type'))}, which would be lost: only the network itself, pooling "
            "and a norm can be kept; take that step out of the list if embeddings without it are wanted."
        )
    return steps


def _kind(step: Mapping[str, Any]) -> str:
    return str(step.get("type")).rpartition(".")[2]


def _mode(path: Path) -> str:
    """The pooling that a step's config.json states."""
    stated = load_object(path)
    chosen = [key for key, value in stated.items() if key.startswith(_OTHER_MODES) and value is True]
    modes = [_STATED[key] for key in chosen if key in _STATED]
    if "pooling_mode" in stated and not chosen:
        chosen = [str(stated["pooling_mode"])]
        modes = [_MODES[mode] for mode in chosen if mode in _MODES]
    if len(chosen) != 1 or len(modes) != 1:
        raise CheckpointError(
            f"{path} pools by {' and '.join(chosen) or 'nothing'}, which a GGUF file cannot state; it can state "
            f"{', '.join(NUMBERS)}."
        )
    return modes[0]
