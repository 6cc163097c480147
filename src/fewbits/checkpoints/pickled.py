"""Read PyTorch's own weights (pytorch_model.bin) without executing a pickle; only where the user allows them at all.

Such a file is a ZIP archive of torch.save (since PyTorch 1.6): `data.pkl`, and one stored entry per storage. A pickle
is a program, so it is looked through before anything reads it: it may name what rebuilds dense tensors and nothing else
(https://docs.python.org/3/library/pickletools.html), and only then torch.load(weights_only=True), which interprets the
harmless part of the language, maps the storages. PyTorch before 2.6 could be made to run code even so
(CVE-2025-32434) and is refused.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.safetensors import ShardedReader
from fewbits.errors import CheckpointError

INDEX_NAME = "pytorch_model.bin.index.json"
SINGLE_NAME = "pytorch_model.bin"

MOST_PICKLED = 16 << 20
"""Bytes of data.pkl, which holds names and shapes; that of a model of 100,000 tensors has 12 MB."""
MOST_LISTED = 16 << 20
"""Bytes of the archive's table of contents."""

_END = struct.Struct("<4s4H2IH")
"""The archive's last 22 bytes: how many entries there are, and where and how long their table is."""

_ALLOWED = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {
        f"torch {kind}Storage"
        for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
    }
)
"""What a pickle of weights names; everything else could be anything."""

_INDIRECT = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
"""Instructions that name things in ways that cannot be looked up beforehand; torch.save writes none of them."""

_DTYPES: Mapping[str, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32"}
    | {"int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}
)
"""torch's name of a dtype -> ours."""


class PickledReader:
    """One file of torch.save, looked through completely; tensors are mapped views."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Mapping[str, Any] = MappingProxyType({})
        _require_weights(path, _pickle_of(path))
        self._tensors: dict[str, StoredTensor] = {n: _stored(path, n, each) for n, each in _load(path).items()}

    def names(self) -> list[str]:
        """Tensor names in the order of the pickle."""
        return list(self._tensors)

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        if name not in self._tensors:
            raise CheckpointError(f"{self.path} holds no tensor called {quoted(name)}.")
        return self._tensors[name]


def open_pickles(path: Path) -> tuple[Reader, tuple[Path, ...]] | None:
    """The pickled checkpoint in directory `path` and its files; None where there is none."""
    index, single = path / INDEX_NAME, path / SINGLE_NAME
    if index.is_file():
        sharded = ShardedReader(index, PickledReader)
        return sharded, (index, *sharded.files)
    return (PickledReader(single), (single,)) if single.is_file() else None


def _pickle_of(path: Path) -> bytes:
    """The pickle in the archive `path`, whose entries lie in it as they are, each at a place of its own."""
    _require_short_table(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _require_plain(path, entries)
            found = [each for each in entries if PurePosixPath(each.filename).name == "data.pkl"]
            if len(found) != 1 or found[0].file_size > MOST_PICKLED:
                raise CheckpointError(
                    f"{path} has no data.pkl, or one that is too large for names and shapes; damaged."
                )
            return archive.read(found[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is a damaged archive ({quoted(str(error))}); download it again.") from None


def _require_short_table(path: Path) -> None:
    """Refuse an archive whose table would be long to read, before anything reads it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _END.size - 20, 0))
        tail = file.read()
        if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
            raise CheckpointError(
                f"{path} is no archive of torch.save, or one of PyTorch before 1.6; convert it where you trust it with "
                "transformers, AutoModelForCausalLM.from_pretrained(DIR, weights_only=True)"
                ".save_pretrained(OUT, safe_serialization=True)."
            )
        length = _END.unpack(tail[-_END.size :])[5]
        if length == 0xFFFFFFFF:  # then a longer record, whose place stands before this one, says it
            place = int.from_bytes(tail[8:16], "little")
            file.seek(min(place, size))
            length = int.from_bytes(file.read(56)[40:48], "little")
    if length > min(MOST_LISTED, size):
        raise CheckpointError(f"{path} has a table of {length} bytes for its entries; it is damaged or unsafe.")


def _require_plain(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse what is compressed (it could grow without end), overlaps, is there twice, or lies elsewhere."""
    end, seen = 0, set()
    for each in sorted(entries, key=lambda each: each.header_offset):
        parts = PurePosixPath(each.filename).parts
        fault = None
        if each.filename in seen:
            fault = "is there twice"
        elif ".." in parts or each.filename.startswith("/") or "\\" in each.filename:
            fault = "names a place outside of the archive"
        elif each.compress_type != zipfile.ZIP_STORED or each.compress_size != each.file_size or each.flag_bits & 1:
            fault = "is compressed or encrypted, which torch.save never does"
        elif each.header_offset < end:
            fault = "overlaps another one"
        if fault:
            raise CheckpointError(f"{path}: the entry {quoted(each.filename)} {fault}; the file is damaged or unsafe.")
        seen.add(each.filename)
        end = each.header_offset + 30 + each.file_size


def _require_weights(path: Path, pickle: bytes) -> None:
    """Refuse a pickle that names anything but what dense tensors are made of; nothing is executed to find out."""
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in _INDIRECT or (opcode.name == "GLOBAL" and argument not in _ALLOWED):
                raise CheckpointError(
                    f"{path} is a pickle that uses {quoted(argument or opcode.name)}, which no weights need; refused, "
                    "whatever it does: get the model as safetensors."
                )
    except (ValueError, UnicodeDecodeError, OverflowError, IndexError, struct.error):
        raise CheckpointError(f"{path} has a damaged pickle; download it again.") from None


def _load(path: Path) -> dict[str, Any]:
    """Name -> torch's tensor, its numbers mapped."""
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 6):
        raise CheckpointError(
            f"{path} is a pickle, and PyTorch {torch.__version__} could be made to run code by one "
            "(CVE-2025-32434); install PyTorch 2.6 or newer."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the interpreter of pickles raises many kinds on a damaged one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} cannot be read as weights: {reason}.") from None
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise CheckpointError(f"{path} holds no table of tensors by name; it is no checkpoint of a model.")
    return dict(loaded)


def _stored(path: Path, name: str, tensor: Any) -> StoredTensor:
    import torch

    where = f"tensor {quoted(name)} in {path}"
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{where} is no plain tensor; get the model as safetensors.")
    kind = str(tensor.dtype).removeprefix("torch.")
    size = prod(tensor.shape) * tensor.element_size()
    if kind not in _DTYPES or size > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{where} is stored as {kind}, or as fewer bytes than its shape needs; damaged or unsafe."
        )
    buffer = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return StoredTensor(name, _DTYPES[kind], tuple(tensor.shape), buffer)
