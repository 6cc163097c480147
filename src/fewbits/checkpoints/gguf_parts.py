"""A GGUF model in one file or in several (NAME-00001-of-00003.gguf), read as one source whichever part is named.

The parts are those of llama-gguf-split: each says its number, how many there are and how many tensors they hold
together (split.no, split.count, split.tensors.count); the first has the metadata, every part has tensors of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from fewbits.checkpoints.base import StoredTensor, Value
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
SPLIT_KEYS = (NUMBER, COUNT, TENSORS)
"""Metadata that belongs to a part, not to the model."""

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def part_path(output: Path, number: int, count: int) -> Path:
    """Where part `number`, from 0 on, of the `count` parts of `output` lies.

    >>> part_path(Path("model-Q8_0.gguf"), 0, 3).name
    'model-Q8_0-00001-of-00003.gguf'
    """
    return output.with_name(f"{_stem(output)}-{number + 1:05d}-of-{count:05d}.gguf")


def is_part_of(part: Path, output: Path) -> bool:
    """Whether the name of `part` is that of a part of `output`, of whatever number of parts.

    >>> is_part_of(Path("m-00002-of-00003.gguf"), Path("m.GGUF")), is_part_of(Path("m.gguf"), Path("m.gguf"))
    (True, False)
    """
    found = _NAME.fullmatch(part.name)
    return found is not None and found["stem"] == _stem(output) and part.parent == output.parent


def _stem(output: Path) -> str:
    return output.stem if output.suffix.lower() == ".gguf" else output.name


class GGUFParts:
    """The tensors of all parts under one roof; `metadata` is the first part's, less what says that it is a part."""

    def __init__(self, parts: tuple[GGUFReader, ...]) -> None:
        self.parts = parts
        self.path = parts[0].path
        self.files = tuple(part.path for part in parts)
        self.alignment = parts[0].alignment
        own = {key: value for key, value in parts[0].metadata.items() if key not in SPLIT_KEYS}
        self.metadata: Mapping[str, Value] = MappingProxyType(own)
        self._owners: dict[str, GGUFReader] = {}
        for part in parts:
            for name in part.names():
                if name in self._owners:
                    raise CheckpointError(
                        f"{part.path} holds the tensor {quoted(name)}, and so does {self._owners[name].path}; "
                        "they are no parts of one model."
                    )
                self._owners[name] = part

    def names(self) -> list[str]:
        """Tensor names, part after part, in the order of their descriptions."""
        return list(self._owners)

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        return self._owners.get(name, self.parts[0]).read(name)


def open_gguf(path: Path) -> GGUFParts:
    """The model that `path` is, or is a part of; its parts lie beside it.

    Raises CheckpointError where a file is damaged, a part is missing, or parts do not belong together.
    """
    named = GGUFReader(path)
    count = _number(named, COUNT)
    if not count:
        return GGUFParts((named,))
    paths = _siblings(named, count) if count > 1 else [path]
    return join_parts([named if each == path else GGUFReader(each) for each in paths])


def join_parts(parts: Iterable[GGUFReader]) -> GGUFParts:
    """All `parts` of a model, in their order; raises CheckpointError where they are not the parts of one model."""
    readers = tuple(parts)
    joined = GGUFParts(readers)
    stated = _stated(readers[0])
    for number, part in enumerate(readers):
        _require_place(part, number, len(readers))
        _require_same_model(readers[0], part)
        if _stated(part) != stated:
            raise CheckpointError(
                f"{part.path} says that the parts hold {_stated(part)} tensors and {readers[0].path} says {stated}; "
                "they belong to different models."
            )
    if stated is not None and len(joined.names()) != stated:
        raise CheckpointError(
            f"the {len(readers)} parts of {joined.path} hold {len(joined.names())} tensors together and say that there "
            f"are {stated}; a part belongs to another model or is incomplete: download all of them again."
        )
    return joined


def _stated(part: GGUFReader) -> int | None:
    """How many tensors all parts have together, as this one says."""
    return _number(part, TENSORS) if TENSORS in part.metadata else None


def _number(part: GGUFReader, key: str) -> int:
    """The count that metadata `key` states; 0 where it is not there."""
    stated = part.metadata.get(key)
    if stated is None:
        return 0
    if "int" not in stated.type or isinstance(stated.value, list) or stated.value < 0:
        raise CheckpointError(f"{part.path} states {key} = {quoted(stated.value)} ({stated.type}), no count; damaged.")
    return int(stated.value)


def _siblings(named: GGUFReader, count: int) -> list[Path]:
    """The paths of all parts, by the name of one of them; each exists."""
    path, number = named.path, _number(named, NUMBER)
    found = _NAME.fullmatch(path.name)
    if not found or (int(found["number"]), int(found["count"])) != (number + 1, count):
        raise CheckpointError(
            f"{path} is part {number + 1} of {count}, and by its name the others cannot be found; "
            f"call it NAME-{number + 1:05d}-of-{count:05d}.gguf again."
        )
    paths = [path.with_name(f"{found['stem']}-{n + 1:05d}-of-{count:05d}.gguf") for n in range(count)]
    missing = [each for each in paths if not each.is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{path} is one of {count} parts, and {missing[0].name}{others} is missing beside it; fetch all parts into "
            "one folder."
        )
    return paths


def _require_place(part: GGUFReader, number: int, count: int) -> None:
    said = _number(part, NUMBER), _number(part, COUNT)
    if NUMBER not in part.metadata or said != (number, count):
        what = f"part {said[0] + 1} of {said[1]}" if COUNT in part.metadata else "no part of anything"
        raise CheckpointError(
            f"{part.path} should be part {number + 1} of {count} and says that it is {what}; its name was changed, or "
            "it belongs to another model."
        )


def _require_same_model(first: GGUFReader, part: GGUFReader) -> None:
    """What a part says of the model again, the first has to say too; only the alignment is each one's own."""
    if part.big_endian != first.big_endian:
        raise CheckpointError(
            f"{part.path} and {first.path} differ in their byte order; they are no parts of one model."
        )
    for key, value in part.metadata.items():
        if key not in (*SPLIT_KEYS, "general.alignment") and first.metadata.get(key) != value:
            raise CheckpointError(
                f"{part.path} and {first.path} do not say the same of {quoted(key)}; they belong to different models."
            )
