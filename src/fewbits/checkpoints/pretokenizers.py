"""The pre-tokenizer of a byte-level BPE tokenizer: recognised from what tokenizer.json states, never guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

SPLIT = "Split isolated: "


@dataclass(frozen=True)
class PreTokenizer:
    """One known way of cutting text: GGUF's name for it and the steps that tokenizer.json states."""

    name: str
    ignore_merges: bool
    steps: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Other names of the same way in GGUF files."""


@cache
def pretokenizers() -> tuple[PreTokenizer, ...]:
    """Every known pre-tokenizer, from the data file."""
    text = (resources.files("fewbits.checkpoints") / "pretokenizers.toml").read_text(encoding="utf-8")
    return tuple(
        PreTokenizer(kind["name"], kind["ignore_merges"], tuple(kind["steps"]), tuple(kind.get("also", ())))
        for kind in tomllib.loads(text)["kind"]
    )


def _byte_level(step: Mapping[str, Any]) -> str:
    if step.get("add_prefix_space"):
        return "ByteLevel with a space before the text"
    return "ByteLevel regex" if step.get("use_regex", True) else "ByteLevel"


def _split(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    if (
        isinstance(pattern, dict)
        and "Regex" in pattern
        and step.get("behavior") == "Isolated"
        and not step.get("invert")
    ):
        return f"{SPLIT}{pattern['Regex']}"
    return f"Split {step}"


def _punctuation(step: Mapping[str, Any]) -> str:
    return f"Punctuation {str(step.get('behavior', 'Isolated')).lower()}"


def _digits(step: Mapping[str, Any]) -> str:
    return "Digits" if step.get("individual_digits") else "Digits in groups"


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {"ByteLevel": _byte_level, "Split": _split, "Digits": _digits, "Punctuation": _punctuation}
)


def _steps(stated: Any) -> tuple[str, ...]:
    """The steps of a pre-tokenizer as tokenizer.json states it, one line each."""
    if not isinstance(stated, dict):
        return ()
    if stated.get("type") == "Sequence":
        return tuple(line for step in stated.get("pretokenizers") or [] for line in _steps(step))
    describe = _STEPS.get(str(stated.get("type")))
    return (describe(stated) if describe else str(stated.get("type")),)


def recognise(path: Path, stated: Any, ignore_merges: bool) -> PreTokenizer:
    """The known pre-tokenizer that `stated`, a part of tokenizer.json, describes; CheckpointError when none does."""
    steps = _steps(stated)
    for known in pretokenizers():
        if known.steps == steps and known.ignore_merges == ignore_merges:
            return known
    names = ", ".join(dict.fromkeys(known.name for known in pretokenizers()))
    shown = "; ".join(steps)[:200] or "nothing"
    raise CheckpointError(
        f"{path} cuts text in a way that no known pre-tokenizer does ({shown}; ignore_merges = "
        f"{str(ignore_merges).lower()}), and a wrong one would spoil the model silently. Known: {names}."
    )


def by_name(name: str) -> PreTokenizer:
    """The first known pre-tokenizer that GGUF files call `name`; raises CheckpointError when there is none."""
    for known in pretokenizers():
        if name == known.name or name in known.also:
            return known
    names = ", ".join(dict.fromkeys(known.name for known in pretokenizers()))
    raise CheckpointError(f"the pre-tokenizer {quoted(name)} of the GGUF file is not known. Known: {names}.")
