"""Write one GGUF model as several files, as llama-gguf-split does: metadata in the first, split.* keys in each.

Tensors follow one another as in one file; a part ends before the tensor that would make it larger than it may be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.gguf_parts import COUNT, NUMBER, TENSORS, is_part_of, part_path
from fewbits.checkpoints.gguf_writer import GGUFWriter, Layout, Row, aligned, alignment_of, plan_layout
from fewbits.checkpoints.partial_file import remove_abandoned, sync_folder
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

MOST_PARTS = 999
"""Each part is an open file while it is written, and systems allow a thousand or so."""

_UNITS: Mapping[str, int] = MappingProxyType({"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12})
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)B?", re.IGNORECASE)


def read_size(size: int | str) -> int:
    """Bytes of "2G", "500M" (powers of 1000, as llama-gguf-split has them) or a number; CheckpointError for others.

    >>> read_size("2G"), read_size(4096)
    (2000000000, 4096)
    """
    found = _SIZE.fullmatch(str(size).strip())
    count = int(found[1]) * _UNITS[found[2].upper()] if found else 0
    if not count:
        raise CheckpointError(f"{size} is no size of a part; say 2G or 500M, in bytes.")
    return count


def plan_parts(
    architecture: str, metadata: Mapping[str, Value], tensors: Sequence[Row], largest: int
) -> tuple[Layout, ...]:
    """Layouts of parts of at most `largest` bytes; a tensor that needs more alone has a part alone.

    Raises CheckpointError where there would be too many parts.
    """
    others = {key: value for key, value in metadata.items() if key == "general.alignment"}
    headers = [len(plan_layout(*each, []).header) for each in _stated(architecture, metadata, others, 2, 0)]
    groups = _groups(tensors, headers, largest, alignment_of(metadata))
    if len(groups) > MOST_PARTS:
        least = sum(size for *_, size in tensors) / MOST_PARTS / 1e6
        raise CheckpointError(
            f"--split-size makes {len(groups)} parts, and at most {MOST_PARTS} are written; take {least + 1:.0f}M or "
            "more."
        )
    stated = _stated(architecture, metadata, others, len(groups), len(tensors))
    return tuple(plan_layout(*each, group) for each, group in zip(stated, groups, strict=True))


def _groups(tensors: Sequence[Row], headers: Sequence[int], largest: int, alignment: int) -> list[list[Row]]:
    """`tensors` part by part; `headers` are the bytes of the first part's and of any other's without tensors."""
    groups: list[list[Row]] = [[]]
    header, stored = headers[0], 0
    for row in tensors:
        described, size = _description(row), aligned(row[3], alignment)
        if groups[-1] and aligned(header + described, alignment) + stored + size > largest:
            groups.append([])
            header, stored = headers[1], 0
        groups[-1].append(row)
        header, stored = header + described, stored + size
    return groups


def _stated(
    architecture: str, metadata: Mapping[str, Value], others: Mapping[str, Value], count: int, tensors: int
) -> list[tuple[str | None, Mapping[str, Value]]]:
    """What the header of each part states: its place, and the first one the model's metadata."""
    places = [_place(number, count, tensors) for number in range(count)]
    return [(architecture, {**metadata, **places[0]}), *((None, {**others, **place}) for place in places[1:])]


def _description(row: Row) -> int:
    """Bytes of a tensor's description in a header."""
    return 8 + len(row[0].encode()) + 4 + 8 * len(row[2]) + 4 + 8


def _place(number: int, count: int, tensors: int) -> dict[str, Value]:
    return {
        NUMBER: Value(number, "uint16"),
        COUNT: Value(count, "uint16"),
        TENSORS: Value(tensors, "int32"),
    }


def too_large(layouts: Sequence[Layout], largest: int) -> list[str]:
    """Names of the tensors that alone make a part larger than it may be."""
    return [layout.slots[0].name for layout in layouts if layout.size > largest and layout.slots]


def existing_parts(output: Path) -> list[Path]:
    """Parts of `output`, of whatever number of parts, that are there already."""
    folder = output.parent
    return sorted(each for each in folder.iterdir() if is_part_of(each, output)) if folder.is_dir() else []


def _begun_parts(output: Path) -> list[Path]:
    """Parts of `output` that a run has begun to write, by the names that they were to get."""
    hidden = [each.name for each in output.parent.iterdir() if each.name.startswith(".")]
    named = [output.with_name(name[1:].removesuffix(".partial")) for name in hidden if name.endswith(".partial")]
    return [part for part in named if is_part_of(part, output)]


class SplitWriter:
    """All parts of a file that are being written; nothing is left behind unless `publish` was called."""

    def __init__(self, output: Path, layouts: Sequence[Layout]) -> None:
        self.output = output
        self._writers: list[GGUFWriter] = []
        for part in _begun_parts(output):
            remove_abandoned(part)
        try:
            for number, layout in enumerate(layouts):
                self._writers.append(GGUFWriter(part_path(output, number, len(layouts)), layout))
        except BaseException:
            self.discard()
            raise
        self._owners = {slot.name: writer for writer in self._writers for slot in writer.layout.slots}

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the fields of rows of tensor `name` from `first_row` on, into its part."""
        self._owners[name].write_fields(name, first_row, fields)

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        for writer in self._writers:
            writer.start_flush()

    def sync(self) -> None:
        """Wait until every byte of every part is on the disk."""
        for writer in self._writers:
            writer.sync()

    def publish(self) -> None:
        """Make the complete, synced parts appear under their names, the first one, which readers open, last.

        Parts of an earlier output of this name go; where a name cannot be given, they stay and none of these does.
        """
        earlier: dict[Path, Path] = {}
        named: list[Path] = []
        try:
            for path in existing_parts(self.output):
                earlier[path] = path.rename(path.with_name(f".{path.name}.replaced"))
            for writer in reversed(self._writers):
                named.append(writer.output)
                writer.publish()
        except BaseException:
            for path in named:
                path.unlink(missing_ok=True)
            for path, kept in earlier.items():
                kept.rename(path)
            raise
        for kept in earlier.values():
            kept.unlink()
        sync_folder(self.output.parent)

    def discard(self) -> None:
        """Forget the parts unless they were published; safe to call twice."""
        for writer in self._writers:
            writer.discard()
