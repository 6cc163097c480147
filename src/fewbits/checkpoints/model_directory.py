"""Write a Hugging Face model directory whose matrices lie in the fewbits dialect of safetensors; whole, or not at all.

The directory grows under another name. Weights are written as fields of formats, slab by slab; configuration and
tokenizer are the source's, but for `quantization_config`, which says that these weights need fewbits, and under
"activations" in which ways inputs are rounded at run time; the header of the weights says it of each matrix.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints.fields import DTYPES, PLAIN, Matrix, field_name, statement
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.partial_file import PartialFile, partial_path, sync_folder
from fewbits.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME
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
    size: int
    config: bytes
    copied: Mapping[str, Path]
    """Name in the directory, which may be one in a folder of it -> the source's file."""


def plan_directory(
    source: Path,
    files: tuple[Path, ...],
    tensors: list[Matrix],
    recipe: str,
    changes: Mapping[str, Any] | None = None,
) -> DirectoryLayout:
    """The layout of a directory with `tensors`, made from the model directory `source`.

    Of what the network has transposed, the header says so.

    `changes` are keys of its config.json that have to say something else.
    """
    matrices = [tensor for tensor in tensors if not _is_plain(tensor)]
    header: dict[str, Any] = {"__metadata__": {"format": "pt", METHOD: statement(matrices)}}
    slots: dict[tuple[str, str], FieldSlot] = {}
    position = 0
    for tensor in tensors:
        name, shape = tensor.name, tensor.shape
        for field, (dtype, lines) in _fields(tensor).items():
            size = prod(lines) * np.dtype(dtype).itemsize
            entry = {"dtype": DTYPES[dtype], "shape": list(lines), "data_offsets": [position, position + size]}
            header[name if _is_plain(tensor) else field_name(name, field)] = entry
            rows = prod(shape[:-1]) if len(shape) > 1 else prod(shape)
            slots[name, field] = FieldSlot(position, lines[0], size // lines[0], rows)
            position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return DirectoryLayout(
        header=len(text).to_bytes(8, "little") + text,
        slots={key: replace(slot, offset=slot.offset + start) for key, slot in slots.items()},
        size=start + position,
        config=_config(source, recipe, changes or {}, sorted({t.activation for t in tensors if t.activation})),
        copied=_copied(source, files),
    )


_NUMPY = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16"}


def _is_plain(tensor: Matrix) -> bool:
    """Whether any reader of safetensors finds it as the network has it."""
    return tensor.format in PLAIN and not tensor.transposed


def _fields(tensor: Matrix) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Field -> numpy type and shape; a plain tensor of any number of dimensions is its own field `data`."""
    return {"data": (_NUMPY[tensor.format], tensor.shape)} if _is_plain(tensor) else tensor.fields


def _config(source: Path, recipe: str, changes: Mapping[str, Any], activations: list[str]) -> bytes:
    config = load_object(source / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(
            f"{source} is quantized already: its config.json has a quantization_config; start from the original model."
        )
    config.update(changes)
    said = {"activations": activations} if activations else {}
    config["quantization_config"] = {"quant_method": METHOD, "recipe": recipe, **said}
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


def _copied(source: Path, files: tuple[Path, ...]) -> dict[str, Path]:
    """What the directory takes over as it is."""
    wanted = {*(source / name for name in _SIDE_FILES), *files}
    left = {"config.json", INDEX_NAME}
    kept = {f for f in wanted if f.is_file() and f.suffix != ".safetensors"} - {source / name for name in left}
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
        try:
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
        for field, array in fields.items():
            slot = self.layout.slots[name, field]
            # Lines are rounded up at the end of the tensor only, by less than one: this is exact where a line begins.
            line = first_row * slot.lines // slot.rows
            if line * slot.line_bytes + array.nbytes > slot.lines * slot.line_bytes:
                raise CheckpointError(f"tensor {name} got more of {field} than its {slot.lines} lines; this is a bug.")
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
        _write_synced(self.partial / "config.json", self.layout.config)
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
    config = output / "config.json"
    stated = load_object(config).get("quantization_config") if config.is_file() else None
    if any(output.iterdir()) and not (isinstance(stated, dict) and stated.get("quant_method") == METHOD):
        raise CheckpointError(
            f"{output} is a directory that fewbits did not write, and is not replaced; choose another."
        )
