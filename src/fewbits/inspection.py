"""What is in a checkpoint, from its headers alone: no weight is read, and neither torch nor transformers is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.dialects.reader import quantized
from fewbits.checkpoints.fields import FieldsReader, MatrixReader, StoredMatrix, is_fields_file
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.safetensors import SafetensorsReader, open_directory
from fewbits.errors import CheckpointError
from fewbits.hub.locating import is_repository, locate
from fewbits.mixes import Mix, find_mix

_LONGEST_VALUE = 120
"""Characters of a text, and a tenth as many elements of an array, that metadata shows before it is cut."""

_LAYER = re.compile(r"(?:^|\.)(?:blk|layers?|h|blocks)\.(\d+)\.")
"""A layer's number in a tensor's name, as GGUF and the models of transformers write it."""


def _bits_per_weight(size: int, parameters: int) -> float:
    return 8 * size / parameters if parameters else 0.0


class _Stored:
    """What has weights and bytes."""

    parameters: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the number of weights, scales included."""
        return _bits_per_weight(self.bytes, self.parameters)


@dataclass(frozen=True)
class InspectedTensor(_Stored):
    """One stored tensor; `shape` is in numpy's order, (rows, cols) for a matrix."""

    name: str
    shape: tuple[int, ...]
    format: str
    parameters: int
    bytes: int
    activation: str | None = None
    """How the matrix's inputs are rounded at run time; None where they are not, or where the file does not say."""
    outliers: int = 0
    """Columns kept in 16 bits."""


@dataclass(frozen=True)
class FormatTotal(_Stored):
    """All tensors of one format; `share` is their part of the model's parameters."""

    format: str
    tensors: int
    parameters: int
    bytes: int
    share: float


@dataclass(frozen=True)
class LayerTotal(_Stored):
    """All tensors of one transformer layer."""

    layer: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class KindTotal(_Stored):
    """All tensors that have one name but for the layer's number."""

    kind: str
    tensors: int
    parameters: int
    bytes: int
    formats: dict[str, int]
    """Format -> number of tensors, most first."""


@dataclass(frozen=True)
class Inspection:
    """A checkpoint seen from outside."""

    path: str
    container: str
    """"GGUF", "safetensors" or "ONNX"."""
    dialect: str | None
    """How matrices lie in safetensors ("fewbits", "gptq", ...) or ONNX; None where none is quantized, and for GGUF."""
    architecture: str | None
    """As the checkpoint itself names it; None where it does not say."""
    tensors: tuple[InspectedTensor, ...]
    formats: tuple[FormatTotal, ...]
    """Largest number of parameters first."""
    layers: tuple[LayerTotal, ...]
    """In order; empty where no tensor's name has a layer's number."""
    kinds: tuple[KindTotal, ...]
    """Largest number of parameters first."""
    mix: Mix | None
    """Which mix of formats a GGUF file is; None for other containers and where recipes have nothing to say."""
    parameters: int
    bytes: int
    """Bytes of all tensors."""
    file_bytes: int
    """Bytes of the weight files, headers included."""
    files: tuple[str, ...]
    """Names of the weight files."""
    metadata: dict[str, Any]
    """Long texts and arrays are cut and end in "..." with their length."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of all tensors over the number of weights, the files' headers left out."""
        return _bits_per_weight(self.bytes, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """The inspection as plain data, with the derived figures spelled out."""
        data = asdict(self)
        data["bits_per_weight"] = self.bits_per_weight
        data["mix"] = self.mix.to_json() if self.mix else None
        sections = (
            ("tensors", self.tensors),
            ("formats", self.formats),
            ("layers", self.layers),
            ("kinds", self.kinds),
        )
        for key, items in sections:
            data[key] = [{**asdict(item), "bits_per_weight": item.bits_per_weight} for item in items]
        for tensor in data["tensors"]:
            tensor["shape"] = list(tensor["shape"])
        data["files"] = list(self.files)
        return data


def inspect(path: str | Path, *, revision: str | None = None) -> Inspection:
    """List the tensors, formats, sizes and metadata of a GGUF, safetensors or ONNX file or a Hugging Face directory.

    Of a repository of the hub ("org/name", at `revision`) headers alone are fetched. Raises CheckpointError when there
    is no such path, or what is there is damaged or of another kind, and HubError where the hub has no such repository.
    """
    if is_repository(str(path)):
        return _inspect_repository(str(path), revision)
    path = Path(locate(str(path), revision=revision).path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a GGUF, safetensors or ONNX file, or a model directory.")
    if path.is_dir():
        return _inspect_directory(path)
    opener = _OPENERS.get(_kind(path))
    if opener is None:
        raise CheckpointError(
            f"{path} is neither a GGUF nor a safetensors nor an ONNX file; give one of these, or a model directory."
        )
    return opener(path)


def _kind(path: Path) -> str:
    """The container by the file's first bytes, or by its ending where those say nothing (safetensors has no magic)."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    return "GGUF" if magic == b"GGUF" else path.suffix.lower().lstrip(".")


def _inspect_gguf(path: Path) -> Inspection:
    from fewbits.checkpoints.gguf_parts import open_gguf

    reader = open_gguf(path)
    values = {
        key: list(value.value) if value.type.startswith("array") else value.value
        for key, value in reader.metadata.items()
    }
    architecture = values.get("general.architecture")
    mix = None
    if isinstance(architecture, str):
        mix = find_mix(architecture, reader.metadata, tuple(map(reader.read, reader.names())))
    return _summary(str(path), "GGUF", architecture, reader, _sizes(reader.files), values, mix)


def _inspect_safetensors(path: Path) -> Inspection:
    reader = SafetensorsReader(path)
    matrices = FieldsReader(reader) if is_fields_file(reader) else reader
    return _summary(str(path), "safetensors", None, matrices, _sizes((path,)), _shown(reader.metadata))


def _inspect_directory(path: Path) -> Inspection:
    reader, files = open_directory(path)
    config = load_object(path / "config.json") if (path / "config.json").is_file() else {}
    weights = tuple(file for file in files if file.suffix == ".safetensors")
    return _model(str(path), reader, config, _sizes(weights))


def _inspect_repository(name: str, revision: str | None) -> Inspection:
    """By headers that are fetched, or what the cache has where nobody can be asked."""
    from fewbits.hub.headers import read_headers  # huggingface_hub and all

    found = read_headers(name, revision=revision)
    if found is None:
        return _inspect_directory(Path(locate(name, revision=revision).path))
    return _model(found.name, found.reader, found.config, found.sizes)


def _model(name: str, reader: Reader, config: Mapping[str, Any], sizes: Mapping[str, int]) -> Inspection:
    """Weights beside a config.json, in whatever dialect that says."""
    classes = config.get("architectures")
    architecture = str(classes[0]) if isinstance(classes, list) and classes else config.get("model_type")
    stated = config.get("quantization_config")
    matrices = quantized(name, reader, stated if isinstance(stated, dict) else None, unknown_as_it_is=True)
    metadata = {**_shown(reader.metadata), **config}
    return _summary(name, "safetensors", architecture, matrices or reader, sizes, metadata)


def _shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata less what the list of tensors says."""
    return {key: value for key, value in metadata.items() if key != "fewbits"}


def _inspect_onnx(path: Path) -> Inspection:
    from fewbits.checkpoints.onnx.reader import OnnxReader

    reader = OnnxReader(path)
    return _summary(str(path), "ONNX", None, reader, _sizes(reader.file.files), reader.metadata)


_OPENERS: dict[str, Callable[[Path], Inspection]] = {
    "GGUF": _inspect_gguf,
    "safetensors": _inspect_safetensors,
    "onnx": _inspect_onnx,
}


def _sizes(files: tuple[Path, ...]) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in files}


def _summary(
    path: str,
    container: str,
    architecture: object,
    reader: Reader | MatrixReader,
    sizes: Mapping[str, int],
    metadata: Mapping[str, Any],
    mix: Mix | None = None,
) -> Inspection:
    tensors = tuple(_tensor(reader.read(name)) for name in reader.names())
    return Inspection(
        path=path,
        container=container,
        dialect=getattr(reader, "dialect_name", None),
        architecture=architecture if isinstance(architecture, str) else None,
        tensors=tensors,
        formats=_totals(tensors),
        layers=_layers(tensors),
        kinds=_kinds(tensors),
        mix=mix,
        parameters=sum(t.parameters for t in tensors),
        bytes=sum(t.bytes for t in tensors),
        file_bytes=sum(sizes.values()),
        files=tuple(sizes),
        metadata={key: _shortened(value) for key, value in metadata.items()},
    )


def _tensor(stored: StoredTensor | StoredMatrix) -> InspectedTensor:
    inputs = (stored.activation, stored.outliers) if isinstance(stored, StoredMatrix) else ()
    return InspectedTensor(stored.name, stored.shape, stored.format, prod(stored.shape), stored.bytes, *inputs)


def _totals(tensors: tuple[InspectedTensor, ...]) -> tuple[FormatTotal, ...]:
    everything = sum(t.parameters for t in tensors)
    totals = []
    for name in dict.fromkeys(t.format for t in tensors):
        members = [t for t in tensors if t.format == name]
        parameters = sum(t.parameters for t in members)
        share = parameters / everything if everything else 0.0
        totals.append(FormatTotal(name, len(members), parameters, sum(t.bytes for t in members), share))
    return tuple(sorted(totals, key=lambda total: -total.parameters))


def _layers(tensors: tuple[InspectedTensor, ...]) -> tuple[LayerTotal, ...]:
    members: dict[int, list[InspectedTensor]] = {}
    for tensor in tensors:
        if found := _LAYER.search(tensor.name):
            members.setdefault(int(found[1]), []).append(tensor)
    return tuple(
        LayerTotal(layer, sum(t.parameters for t in group), sum(t.bytes for t in group))
        for layer, group in sorted(members.items())
    )


def _kinds(tensors: tuple[InspectedTensor, ...]) -> tuple[KindTotal, ...]:
    members: dict[str, list[InspectedTensor]] = {}
    for tensor in tensors:
        members.setdefault(kind_of(tensor.name), []).append(tensor)
    totals = [_kind_total(kind, group) for kind, group in members.items()]
    return tuple(sorted(totals, key=lambda total: -total.parameters))


def _kind_total(kind: str, group: list[InspectedTensor]) -> KindTotal:
    formats = Counter(tensor.format for tensor in group)
    size = sum(t.bytes for t in group)
    return KindTotal(kind, len(group), sum(t.parameters for t in group), size, dict(formats.most_common()))


def kind_of(name: str) -> str:
    """A tensor's name without the number of its layer, and without what every name has.

    >>> kind_of("blk.12.attn_v.weight"), kind_of("model.layers.3.mlp.down_proj.weight"), kind_of("lm_head.weight")
    ('attn_v', 'mlp.down_proj', 'lm_head')
    """
    found = _LAYER.search(name)
    rest = name[found.end() :] if found else name.removeprefix("model.")
    return rest.removesuffix(".weight") or name


def _shortened(value: Any) -> Any:
    """The value as plain data, cut where it is long: a vocabulary of 150,000 tokens tells nobody anything.

    >>> _shortened(list(range(20)))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, '... 20 elements']
    """
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}... {len(value)} characters"
    if isinstance(value, list | tuple):
        most = _LONGEST_VALUE // 10
        head = [_shortened(item) for item in value[:most]]
        return head if len(value) <= most else [*head, f"... {len(value)} elements"]
    if isinstance(value, dict):
        return {str(key): _shortened(item) for key, item in value.items()}
    return value
