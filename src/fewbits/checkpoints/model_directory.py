"""Write a Hugging Face model directory whose matrices lie in some dialect of safetensors; whole, or not at all.

The directory grows under another name. Configuration and tokenizer are the source's, but for `quantization_config`. In
our own dialect weights are written as fields of formats, slab by slab; there it says that these weights need fewbits,
and under "activations" in which ways inputs are rounded at run time; the header of the weights says it of each matrix.
In another dialect it is what that dialect's readers expect, and the fields of a matrix are gathered, packed as the
dialect says and written when they are complete: never more than the packed codes of the matrices at work are in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints import pickled
from fewbits.checkpoints.dialects.base import WIDTHS, Dialect
from fewbits.checkpoints.fields import DTYPES, PLAIN, Matrix, field_name, statement
from fewbits.checkpoints.gathering import Gathering
from fewbits.checkpoints.jsonfile import load_object, parse_object
from fewbits.checkpoints.partial_file import PartialFile, partial_path, sync_folder
from fewbits.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME, SafetensorsReader
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

METHOD = "fewbits"
"""`quantization_config.quant_method`: transformers refuses what it does not know instead of reading it wrongly."""


@dataclass(frozen=True)
class FieldSlot:
    """Where one field lies: `lines` of `line_bytes` from byte `offset` of the file on, for `rows` rows."""

    offset: int
    lines: int
    line_bytes: int
    rows: int


@dataclass(frozen=True)
class DirectoryLayout:
    """The weights file before its tensors, and what else belongs into the directory."""

    header: bytes
    slots: Mapping[tuple[str, str], FieldSlot]
    """Tensor, and its field or what a dialect makes of it -> its place."""
    size: int
    config: bytes
    copied: Mapping[str, Path]
    """Name in the directory, which may be one in a folder of it -> the source's file."""
    dialect: Dialect | None = None
    """None for our own."""
    packed: Mapping[str, Matrix] = field(default_factory=dict)
    """What the dialect packs, by name."""


def plan_directory(
    source: Path,
    files: tuple[Path, ...],
    tensors: list[Matrix],
    recipe: str,
    changes: Mapping[str, Any] | None = None,
    dialect: Dialect | None = None,
    *,
    quantized: bool = False,
) -> DirectoryLayout:
    """The layout of a directory with `tensors`, made from the model directory `source`, in our dialect or another.

    `changes` are keys of its config.json that have to say something else. A source that is `quantized` already is
    refused unless it may be: then what it says of its own dialect is left out. Raises CheckpointError where the
    dialect cannot hold these matrices.
    """
    if not quantized:
        _refuse_quantized(source)
    matrices = [tensor for tensor in tensors if not _is_plain(tensor)]
    stated = {METHOD: statement(matrices)} if dialect is None else {"quantized_by": METHOD}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **stated}}
    slots: dict[tuple[str, str], FieldSlot] = {}
    position = 0
    for tensor in tensors:
        shape = tensor.shape
        for key, name, dtype, lines in _entries(tensor, dialect):
            size = prod(lines) * np.dtype(WIDTHS[dtype]).itemsize
            header[name] = {"dtype": dtype, "shape": list(lines), "data_offsets": [position, position + size]}
            rows = prod(shape[:-1]) if len(shape) > 1 else prod(shape)
            slots[tensor.name, key] = FieldSlot(position, lines[0], size // lines[0], rows)
            position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    parse_object(text, f"the header for {len(tensors)} tensors")  # what no reader of ours would take is not written
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return DirectoryLayout(
        header=len(text).to_bytes(8, "little") + text,
        slots={key: replace(slot, offset=slot.offset + start) for key, slot in slots.items()},
        size=start + position,
        config=_config(source, changes or {}, _quantization(tensors, matrices, recipe, dialect), dialect),
        copied=_copied(source, files),
        dialect=dialect,
        packed={matrix.name: matrix for matrix in matrices} if dialect else {},
    )


def _entries(tensor: Matrix, dialect: Dialect | None) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """What holds `tensor`: key of its place, name in the file, dtype of safetensors, shape."""
    if dialect is not None and not _is_plain(tensor):
        return [(name, name, dtype, shape) for name, (dtype, shape) in dialect.slots(tensor).items()]
    return [
        (key, tensor.name if _is_plain(tensor) else field_name(tensor.name, key), DTYPES[dtype], lines)
        for key, (dtype, lines) in _fields(tensor).items()
    ]


_NUMPY = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16"}


def _is_plain(tensor: Matrix) -> bool:
    """Whether any reader of safetensors finds it as the network has it."""
    return tensor.format in PLAIN and not tensor.transposed


def _fields(tensor: Matrix) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Field -> numpy type and shape; a plain tensor of any number of dimensions is its own field `data`."""
    return {"data": (_NUMPY[tensor.format], tensor.shape)} if _is_plain(tensor) else tensor.shapes


_HEAD = "lm_head.weight"


def _quantization(
    tensors: list[Matrix], matrices: list[Matrix], recipe: str, dialect: Dialect | None
) -> dict[str, Any]:
    """`quantization_config`."""
    if dialect is not None:
        plain = [t.name for t in tensors if _is_plain(t) and len(t.shape) == 2 and t.name.endswith(".weight")]
        # Where it is tied to the embedding no tensor has this name, but readers have the module.
        tied = [_HEAD] if _HEAD not in {tensor.name for tensor in tensors} else []
        return dialect.configuration(matrices, [*plain, *tied])
    activations = sorted({tensor.activation for tensor in tensors if tensor.activation})
    return {"quant_method": METHOD, "recipe": recipe} | ({"activations": activations} if activations else {})


def _refuse_quantized(source: Path) -> None:
    if "quantization_config" in load_object(source / "config.json"):
        raise CheckpointError(
            f"{source} is quantized already: its config.json has a quantization_config; start from the original model."
        )


def _config(
    source: Path, changes: Mapping[str, Any], quantization: Mapping[str, Any], dialect: Dialect | None
) -> bytes:
    said = {"quantization_config", "quantization", "compression_config"}
    config = {key: value for key, value in load_object(source / "config.json").items() if key not in said}
    config.update(changes)
    if quantization:
        config |= dict.fromkeys(dialect.keys if dialect else ("quantization_config",), quantization)
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


_SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


_WEIGHTS = (".safetensors", ".bin")


def _copied(source: Path, files: tuple[Path, ...]) -> dict[str, Path]:
    """What the directory takes over as it is."""
    wanted = {*(source / name for name in _SIDE_FILES), *files}
    left = {"config.json", INDEX_NAME, pickled.INDEX_NAME}
    kept = {f for f in wanted if f.is_file() and f.suffix not in _WEIGHTS} - {source / name for name in left}
    return {str(file.relative_to(source)): file for file in sorted(kept)}


class DirectoryWriter:
    """A directory that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __init__(self, output: Path, layout: DirectoryLayout) -> None:
        self.output = output
        self.layout = layout
        self.partial = partial_path(output)
        self.partial.mkdir(exist_ok=True)
        self.weights = self.partial / SINGLE_NAME
        self._published = False
        self._file = PartialFile(self.weights, output, layout.size)
        self._gathering = Gathering(layout.packed)
        try:
            _write_synced(self.partial / "config.json", layout.config)
            self._file.write(layout.header, 0)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> DirectoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the fields of rows from `first_row` on, which begins a line of each of them."""
        if name not in self.layout.packed:
            self._write(name, first_row, fields)
            return
        whole = self._gathering.add(name, first_row, fields)
        if whole is not None and self.layout.dialect is not None:
            self._write(name, 0, self.layout.dialect.pack(self.layout.packed[name], whole))

    def _write(self, name: str, first_row: int, fields: Fields) -> None:
        for key, array in fields.items():
            slot = self.layout.slots[name, key]
            # Lines are rounded up at the end of the tensor only, by less than one: this is exact where a line begins.
            line = first_row * slot.lines // slot.rows
            if line * slot.line_bytes + array.nbytes > slot.lines * slot.line_bytes:
                raise CheckpointError(f"tensor {name} got more of {key} than its {slot.lines} lines; this is a bug.")
            self._file.write(
                np.ascontiguousarray(array).reshape(-1).view(np.uint8), slot.offset + line * slot.line_bytes
            )

    def start_flush(self) -> None:
        """Send everything to the disk in the background; `sync` waits for it."""
        self._file.start_flush()

    def sync(self) -> None:
        """Wait until every byte of the weights is on the disk."""
        self._file.sync()

    def publish(self) -> None:
        """Add configuration and tokenizer, and make the complete directory appear under its name."""
        for name, file in self.layout.copied.items():
            (self.partial / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_synced(file, self.partial / name)
            sync_folder((self.partial / name).parent)
        sync_folder(self.partial)
        replaced = self.output.with_name(f".{self.output.name}.replaced")
        if self.output.exists():
            self.output.rename(replaced)
        self.partial.rename(self.output)
        self._published = True
        sync_folder(self.output.parent)
        self._file.close()
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self) -> None:
        """Forget the directory unless it was published; safe to call twice."""
        if not self._published:
            self._file.discard()
            shutil.rmtree(self.partial, ignore_errors=True)
        self._file.close()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_synced(source: Path, path: Path) -> None:
    """Copied piece by piece: a projector may be as large as a model."""
    with source.open("rb") as read, path.open("wb") as file:
        shutil.copyfileobj(read, file, 1 << 22)
        file.flush()
        os.fsync(file.fileno())


def require_replaceable(output: Path, *, force: bool) -> None:
    """Refuse a directory that exists, and with `force` one that fewbits did not write."""
    if not output.exists():
        return
    if not force:
        raise CheckpointError(f"{output} exists already; choose another output, or replace it with --force.")
    if any(output.iterdir()) and not _is_ours(output):
        raise CheckpointError(
            f"{output} is a directory that fewbits did not write, and is not replaced; choose another."
        )


def _is_ours(folder: Path) -> bool:
    """Whether fewbits wrote the directory: the header of its weights says so."""
    try:
        metadata = SafetensorsReader(folder / SINGLE_NAME).metadata
    except (CheckpointError, OSError):
        return False
    return METHOD in metadata or metadata.get("quantized_by") == METHOD
