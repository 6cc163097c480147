"""Read safetensors files, one or sharded: the whole header is checked before any tensor is handed out.

The layout is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes without holes
(https://huggingface.co/docs/safetensors). Nothing is ever allocated because a header says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Bytes, Reader, StoredTensor
from fewbits.checkpoints.jsonfile import load_object, parse_object
from fewbits.checkpoints.limits import JSON_BYTES, countless
from fewbits.checkpoints.mapping import map_file
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
SHARD_NAME = "model-{:05d}-of-{:05d}.safetensors"

DIMENSION_LIMIT = 8
"""More dimensions than any weight has: a list of a million would make even multiplying them slow."""

_WIDTHS: Mapping[str, int] = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
    | {"I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8}
)
"""Bytes per element of every dtype with whole-byte elements; which of them are weights is for the caller to say."""


@dataclass(frozen=True)
class Entry:
    """A tensor's dtype and shape, and its bytes, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _entry(where: str, raw: object) -> Entry:
    """One tensor's header fields, each of the right type; sizes are compared by the caller."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} needs exactly dtype, shape and data_offsets; the file is damaged.")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise CheckpointError(f"{where} has dtype {quoted(dtype)}, which is not known; save it as F32, F16 or BF16.")
    if not isinstance(shape, list) or len(shape) > DIMENSION_LIMIT or not all(_is_count(n) for n in shape):
        raise CheckpointError(f"{where} has shape {quoted(shape)}, not a list of counts; the file is damaged.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise CheckpointError(f"{where} has data_offsets {quoted(offsets)}, not two positions; the file is damaged.")
    if countless(shape):
        raise CheckpointError(f"{where} has shape {quoted(shape)}, more than 64 bits can count; damaged or unsafe.")
    begin, end = offsets
    size = prod(shape) * _WIDTHS[dtype]
    if end - begin != size:
        raise CheckpointError(
            f"{where} of {dtype} with shape {quoted(shape)} needs {quoted(size)} bytes but its offsets "
            f"span {quoted(end - begin)}; the file is damaged."
        )
    return Entry(dtype, tuple(shape), begin, end)


LENGTH = 8
"""Bytes before the header, which say how long it is."""


def header_end(path: Path, first: Bytes, size: int) -> int:
    """Where the header of a file of `size` bytes ends, by its `first` bytes; raises CheckpointError where it cannot."""
    if size < LENGTH:
        raise CheckpointError(f"{path} has {size} bytes, too few for a safetensors header; download it again.")
    length = int.from_bytes(first[:LENGTH].tobytes(), "little")
    if length > JSON_BYTES:
        raise CheckpointError(
            f"{path} claims a header of {length} bytes, above the limit of {JSON_BYTES}; "
            "it is damaged, unsafe, or no safetensors file."
        )
    if length > size - LENGTH:
        raise CheckpointError(
            f"{path} claims a header of {length} bytes but has {size - LENGTH} after the length; "
            "it is truncated or no safetensors file: download it again."
        )
    return LENGTH + length


def _text_metadata(path: Path, raw: object) -> dict[str, str]:
    """The metadata of a header; MLX writes null where it has none."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(v, str) for v in raw.values()):
        raise CheckpointError(f"__metadata__ in {path} must map names to strings; the file is damaged.")
    return raw


def _check_tiling(path: Path, entries: dict[str, Entry], available: int) -> None:
    """The tensors cover the data part exactly: no overlap, no hole, nothing missing, nothing left."""
    position, previous = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            fault = "overlaps" if entry.begin < position else "leaves a hole after"
            raise CheckpointError(
                f"tensor {quoted(name)} in {path} begins at byte {entry.begin} and {fault} {previous}, "
                f"which ends at {position}; the file is damaged or unsafe."
            )
        position, previous = entry.end, f"tensor {quoted(name)}"
    if position > available:
        raise CheckpointError(
            f"{path} is truncated: {previous} ends at byte {position} of the data but only {available} are there; "
            "download it again."
        )
    if position < available:
        raise CheckpointError(f"{path} has {available - position} bytes after its last tensor; the file is damaged.")


class Header:
    """What a file of `size` bytes says of its tensors in its header, the bytes `text`; checked completely."""

    def __init__(self, path: Path, text: Bytes, size: int) -> None:
        self.path = path
        stated = parse_object(text.tobytes(), f"the header of {path}")
        self.metadata: Mapping[str, Any] = MappingProxyType(_text_metadata(path, stated.pop("__metadata__", None)))
        self.entries = {name: _entry(f"tensor {quoted(name)} in {path}", raw) for name, raw in stated.items()}
        _check_tiling(path, self.entries, size - LENGTH - text.size)

    def names(self) -> list[str]:
        """Tensor names in the order of their bytes."""
        return sorted(self.entries, key=lambda name: self.entries[name].begin)

    def entry(self, name: str) -> Entry:
        """Of the tensor called `name`; raises CheckpointError when there is none."""
        if name not in self.entries:
            raise CheckpointError(f"{self.path} holds no tensor called {quoted(name)}.")
        return self.entries[name]


class SafetensorsReader:
    """One safetensors file, its header checked completely; tensors are mapped views.

    `StoredTensor.format` is the dtype as written ("BF16", but also "I64" or "F64": the caller refuses what it cannot
    use, because only it knows which tensors matter).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = map_file(path)
        start = header_end(path, data, data.size)
        self._header = Header(path, data[LENGTH:start], data.size)
        self.metadata: Mapping[str, Any] = self._header.metadata
        self._data = data[start:]

    def names(self) -> list[str]:
        """Tensor names in the order of their bytes."""
        return self._header.names()

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`, a view; raises CheckpointError when there is none."""
        entry = self._header.entry(name)
        return StoredTensor(name, entry.dtype, entry.shape, self._data[entry.begin : entry.end])


class ShardedReader:
    """Several files behind one index, which must agree with them tensor by tensor; `opened` reads those `there`."""

    def __init__(
        self,
        index: Path,
        opened: Callable[[Path], Reader] = SafetensorsReader,
        there: Callable[[Path], bool] = Path.is_file,
    ) -> None:
        self.path = index
        raw = load_object(index)
        self._where = _weight_map(index, raw.get("weight_map"))
        shards = sorted(set(self._where.values()))
        self.files = tuple(_shard_path(index, shard, there) for shard in shards)
        self._shards = {shard: opened(path) for shard, path in zip(shards, self.files, strict=True)}
        self.metadata: Mapping[str, Any] = MappingProxyType(_agreed(self.shards))
        for shard, reader in self._shards.items():
            self._check_shard(shard, set(reader.names()))

    @property
    def shards(self) -> tuple[Reader, ...]:
        """The files, by name."""
        return tuple(self._shards.values())

    def _check_shard(self, shard: str, present: set[str]) -> None:
        expected = {name for name, where in self._where.items() if where == shard}
        for name in sorted(expected - present):
            raise CheckpointError(
                f"{self.path} places tensor {quoted(name)} in {quoted(shard)}, which has none; download it again."
            )
        for name in sorted(present - expected):
            raise CheckpointError(
                f"{quoted(shard)} holds tensor {quoted(name)}, which {self.path} does not place there."
            )

    def names(self) -> list[str]:
        """Tensor names, shard by shard, in the order of their bytes."""
        return [name for reader in self._shards.values() for name in reader.names()]

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`, a view; raises CheckpointError when there is none."""
        if name not in self._where:
            raise CheckpointError(f"{self.path} places no tensor called {quoted(name)}.")
        return self._shards[self._where[name]].read(name)


def _agreed(shards: tuple[Reader, ...]) -> dict[str, Any]:
    """Metadata of several files, without what two of them state differently."""
    stated: dict[str, Any] = {}
    contradicted = set()
    for shard in shards:
        contradicted |= {key for key, value in shard.metadata.items() if stated.setdefault(key, value) != value}
    return {key: value for key, value in stated.items() if key not in contradicted}


def _weight_map(index: Path, raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, str) for v in raw.values()):
        raise CheckpointError(f"{index} has no weight_map from tensor names to file names; the file is damaged.")
    return raw


_LONGEST_NAME = 255
"""Bytes of a file's name on the systems that we run on."""


def _shard_path(index: Path, shard: str, there: Callable[[Path], bool]) -> Path:
    """A shard lies beside its index: a path that leaves the directory could read any file of the machine."""
    long = len(shard.encode("utf-8", "surrogatepass")) > _LONGEST_NAME
    if long or shard != Path(shard).name or shard in {"", ".", ".."} or "\\" in shard or "\0" in shard:
        raise CheckpointError(
            f"{index} names the shard {quoted(shard)}, which is not a plain file name beside it; refused."
        )
    path = index.parent / shard
    if not there(path):
        raise CheckpointError(f"{index} names the shard {quoted(shard)}, which is missing; download it again.")
    return path


def open_directory(path: Path, *, pickles: bool = False) -> tuple[Reader, tuple[Path, ...]]:
    """The safetensors checkpoint in directory `path` and its files; CheckpointError when there is none.

    With `pickles`, PyTorch's own weights are read where there are no others (checkpoints/pickled.py).
    """
    index, single = path / INDEX_NAME, path / SINGLE_NAME
    if index.is_file():
        sharded = ShardedReader(index)
        return sharded, (index, *sharded.files)
    if single.is_file():
        return SafetensorsReader(single), (single,)
    if pickles:
        from fewbits.checkpoints.pickled import open_pickles  # which is read for those alone who ask for it

        if found := open_pickles(path):
            return found
    raise CheckpointError(f"{path} holds neither {SINGLE_NAME} nor {INDEX_NAME}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.glob(pattern))
    if pickles:
        return (
            f"it has {pickles[0]}, a pickle, which can run code when opened and is refused: convert it where you "
            "trust it with transformers, AutoModelForCausalLM.from_pretrained(DIR, weights_only=True)"
            ".save_pretrained(OUT, safe_serialization=True), or let `fewbits quantize --allow-pickle` read its numbers "
            "and nothing else."
        )
    others = sorted(p.name for p in path.glob("*.safetensors"))
    if others:
        return f"it has {others[0]}: rename a single file to {SINGLE_NAME}, or add the index of a sharded model."
    return "point to a Hugging Face model directory with safetensors weights."
