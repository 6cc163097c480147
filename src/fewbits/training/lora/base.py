"""The base of an adapter: its name, a fingerprint of its weights, and the formats that they had in training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewbits.checkpoints.jsonfile import parse_object
from fewbits.errors import TrainingError
from fewbits.layers.matrix import PackedMatrix
from fewbits.loading.sources import formats_in, open_source

FILE = "fewbits_base.json"
"""Beside peft's files."""
VERSION = 1
_PIECE = 1 << 24


@dataclass(frozen=True)
class Base:
    """A model that adapters are made for."""

    name: str
    sha256: str
    """Of its weight files one after another, in the order of their names; of a network from memory, of its tensors."""
    formats: Mapping[str, int]
    """Format -> how many matrices were packed in it, as the adapter was trained."""

    def write(self, folder: Path) -> None:
        """Beside an adapter's files."""
        said = {"version": VERSION, "name": self.name, "sha256": self.sha256, "formats": dict(self.formats)}
        (folder / FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Base | None:
        """What lies beside an adapter; None where nothing does. Raises TrainingError where it is damaged."""
        path = folder / FILE
        if not path.is_file():
            return None
        said = parse_object(path.read_bytes(), str(path))
        if said.get("version") != VERSION:
            raise TrainingError(f"{path} is of version {said.get('version')!r}, and this fewbits reads {VERSION}.")
        if not isinstance(said.get("sha256"), str) or not isinstance(said.get("formats"), dict):
            raise TrainingError(f"{path} states no fingerprint; the adapter's folder is damaged.")
        return Base(str(said.get("name", "")), said["sha256"], said["formats"])

    @property
    def words(self) -> str:
        """For people: name, formats, the beginning of the fingerprint."""
        formats = ", ".join(self.formats) or "plain numbers"
        return f"{self.name} ({formats}; sha256 {self.sha256[:12]})"


def require_same(adapter: Path, stated: Base | None, base: Base) -> tuple[str, ...]:
    """Notes on what differs; raises TrainingError where `stated`, which lies beside the adapter, is another model."""
    if stated is None:
        return (f"{adapter} says nothing of its base ({FILE} is missing); that it is {base.name} is taken on trust.",)
    if stated.sha256 != base.sha256:
        raise TrainingError(
            f"{adapter} was trained on {stated.words}, and this base is {base.words}; take the one that it was "
            "trained on."
        )
    if set(stated.formats) != set(base.formats):
        return (f"{adapter} was trained on {stated.words}; here the base is in {', '.join(base.formats) or 'floats'}.",)
    return ()


def base_of(network: torch.nn.Module) -> Base:
    """The base that `network` is, adapters left out; its files are read once for it."""
    packed = {id(module): module for module in network.modules() if isinstance(module, PackedMatrix)}
    formats = Counter(matrix.format for matrix in packed.values())
    path = _path_of(network)
    if path is None:
        return Base(type(network).__name__, _sha256_of_tensors(network), formats)
    return Base(str(path), _sha256_of_files(open_source(path).files), formats)


def base_at(path: Path) -> Base:
    """The base that lies at `path`, as it is stored."""
    source = open_source(path)
    return Base(str(path), _sha256_of_files(source.files), formats_in(source))


def _path_of(network: Any) -> Path | None:
    """Where the network was read from; None where nothing says so, or nothing lies there."""
    loaded = getattr(network, "fewbits", None)
    names = [str(loaded.path)] if loaded is not None else []
    names.append(getattr(network, "name_or_path", "") or "")
    return next((Path(name) for name in names if name and Path(name).exists()), None)


def _sha256_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:  # not mapped: pages would count as memory of this process
            while piece := stream.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def _sha256_of_tensors(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    own = {
        name.replace(".base_layer", ""): tensor for name, tensor in network.state_dict().items() if "lora_" not in name
    }
    for name, tensor in sorted(own.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
