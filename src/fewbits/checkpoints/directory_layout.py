"""Which files a model directory of some dialect has, and where in them each tensor lies.

Configuration and tokenizer are the source's, but for `quantization_config`. In our own dialect weights are fields of
formats; there it says that these weights need fewbits, and under "activations" in which ways inputs are rounded at run
time; the header of the weights says it of each matrix. In another dialect it is what that dialect's readers expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints import pickled
from fewbits.checkpoints.dialects.base import WIDTHS, Dialect, InHeaders
from fewbits.checkpoints.fields import DTYPES, PLAIN, Matrix, field_name, statement
from fewbits.checkpoints.jsonfile import load_object, parse_object
from fewbits.checkpoints.safetensors import INDEX_NAME, SHARD_NAME, SINGLE_NAME
from fewbits.errors import CheckpointError

METHOD = "fewbits"
"""`quantization_config.quant_method`: transformers refuses what it does not know instead of reading it wrongly."""


@dataclass(frozen=True)
class FieldSlot:
    """Where one field lies: `lines` of `line_bytes` from byte `offset` of file number `file` on, for `rows` rows."""

    file: int
    offset: int
    lines: int
    line_bytes: int
    rows: int


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights before its tensors: its exact size, and its header."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True)
class DirectoryLayout:
    """The weights files before their tensors, and what else belongs into the directory."""

    files: tuple[WeightsFile, ...]
    slots: Mapping[tuple[str, str], FieldSlot]
    """Tensor, and its field or what a dialect makes of it -> its place."""
    index: bytes | None
    """What says which tensor is in which file, where they are several."""
    config: bytes
    copied: Mapping[str, Path]
    """Name in the directory, which may be one in a folder of it -> the source's file."""
    dialect: Dialect | None = None
    """None for our own."""
    packed: Mapping[str, Matrix] = field(default_factory=dict)
    """What the dialect packs, by name."""

    @property
    def size(self) -> int:
        """Bytes of all weights files."""
        return sum(file.size for file in self.files)

    def weights(self, folder: Path) -> tuple[Path, ...]:
        """Where the weights files lie in `folder`."""
        return tuple(folder / file.name for file in self.files)


def plan_directory(
    source: Path,
    along: tuple[Path, ...],
    tensors: list[Matrix],
    recipe: str,
    changes: Mapping[str, Any] | None = None,
    dialect: Dialect | None = None,
    *,
    quantized: bool = False,
    largest: int | None = None,
) -> DirectoryLayout:
    """The layout of a directory with `tensors`, made from the model directory `source`, in our dialect or another.

    Files `along` are copied, weights aside. `changes` are keys of its config.json that have to say something else. A
    source that is `quantized` already is refused unless it may be: then what it says of its own dialect is left out. No
    file has more than `largest` bytes, but for one with a single tensor. Raises CheckpointError where the dialect
    cannot hold these matrices.
    """
    if not quantized:
        _refuse_quantized(source)
    shards = _shards(tensors, dialect, largest)
    said = stated_in_headers(load_object(source / "config.json"), tensors, dialect)
    files: list[WeightsFile] = []
    slots: dict[tuple[str, str], FieldSlot] = {}
    where: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = SINGLE_NAME if len(shards) == 1 else SHARD_NAME.format(number + 1, len(shards))
        file, own = _planned_file(name, number, shard, dialect, said)
        files.append(file)
        slots |= own
        where |= {entry[1]: name for tensor in shard for entry in _entries(tensor, dialect)}
    matrices = [tensor for tensor in tensors if not _is_plain(tensor)]
    return DirectoryLayout(
        files=tuple(files),
        slots=slots,
        index=_index(where, files) if len(files) > 1 else None,
        config=_config(source, changes or {}, stated_quantization(tensors, matrices, recipe, dialect), dialect),
        copied=side_files(source, along),
        dialect=dialect,
        packed={matrix.name: matrix for matrix in matrices} if dialect else {},
    )


def _shards(tensors: list[Matrix], dialect: Dialect | None, largest: int | None) -> list[list[Matrix]]:
    """Tensors that share a file, in their order."""
    if largest is None:
        return [tensors]
    shards: list[list[Matrix]] = [[]]
    filled = 0
    for tensor in tensors:
        size = sum(_bytes(dtype, lines) + _ENTRY + len(name) for _, name, dtype, lines in _entries(tensor, dialect))
        if shards[-1] and filled + size > largest:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


_ENTRY = 1024
"""Bytes of a header that one entry takes at most, what our own dialect says of it included; names are counted apart."""


def _bytes(dtype: str, lines: tuple[int, ...]) -> int:
    return prod(lines) * np.dtype(WIDTHS[dtype]).itemsize


def stated_in_headers(config: Mapping[str, Any], tensors: list[Matrix], dialect: object) -> dict[str, str]:
    """What the readers of `dialect` want to know from the header of every file of a model of `config`."""
    if not isinstance(dialect, InHeaders):
        return {}
    plain = [tensor for tensor in tensors if _is_plain(tensor)]
    stated = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    first = next((_TORCH[tensor.format] for tensor in plain if tensor.format in _TORCH), "float32")
    dtype = stated if stated in _TORCH.values() else first
    matrices = [tensor for tensor in tensors if not _is_plain(tensor)]
    return dialect.header(matrices, [tensor.name for tensor in plain], dtype)


_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What a model may compute in: dtype of safetensors -> torch's name of it."""


def _place(dtype: str, lines: tuple[int, ...]) -> int:
    """Where a tensor belongs: what would leave the next one at an odd place comes last, wide numbers first.

    Readers take numbers as they lie in the file, and there are no holes between tensors.
    """
    width = np.dtype(WIDTHS[dtype]).itemsize
    return 8 - width if _bytes(dtype, lines) % 8 else 0


def _planned_file(
    file_name: str, number: int, tensors: list[Matrix], dialect: Dialect | None, said: Mapping[str, str]
) -> tuple[WeightsFile, dict[tuple[str, str], FieldSlot]]:
    """The file and the places of `tensors` in it."""
    stated = (
        {METHOD: statement(t for t in tensors if not _is_plain(t))} if dialect is None else {"quantized_by": METHOD}
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **stated, **said}}
    slots: dict[tuple[str, str], FieldSlot] = {}
    position = 0
    entries = [(tensor, *entry) for tensor in tensors for entry in _entries(tensor, dialect)]
    for tensor, key, name, dtype, lines in sorted(entries, key=lambda entry: _place(*entry[3:])):
        size, count, shape = _bytes(dtype, lines), lines[0] if lines else 1, tensor.shape
        header[name] = {"dtype": dtype, "shape": list(lines), "data_offsets": [position, position + size]}
        rows = prod(shape[:-1]) if len(shape) > 1 else prod(shape)
        slots[tensor.name, key] = FieldSlot(number, position, count, size // count, rows)
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    parse_object(text, f"the header for {len(tensors)} tensors")  # what no reader of ours would take is not written
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    file = WeightsFile(file_name, len(text).to_bytes(8, "little") + text, start + position)
    return file, {key: replace(slot, offset=slot.offset + start) for key, slot in slots.items()}


def _index(where: Mapping[str, str], files: list[WeightsFile]) -> bytes:
    """What transformers reads first where there are several files."""
    total = sum(file.size - len(file.header) for file in files)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2).encode() + b"\n"


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


def stated_quantization(
    tensors: list[Matrix], matrices: list[Matrix], recipe: str, dialect: Dialect | None
) -> dict[str, Any]:
    """`quantization_config` of `tensors`, of which `matrices` are quantized by `recipe`."""
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
    # Half a letter, which a file may hold as an escape, becomes that escape again.
    return json.dumps(config, indent=2, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


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


def side_files(source: Path, files: tuple[Path, ...] = ()) -> dict[str, Path]:
    """What the directory takes over as it is."""
    wanted = {*(source / name for name in _SIDE_FILES), *files}
    left = {"config.json", INDEX_NAME, pickled.INDEX_NAME}
    kept = {f for f in wanted if f.is_file() and f.suffix not in _WEIGHTS} - {source / name for name in left}
    return {str(file.relative_to(source)): file for file in sorted(kept)}
