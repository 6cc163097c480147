"""A stored model, opened: what transformers has to know of it, and what fills its parameters. No weight is read yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import torch

from fewbits import formats
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import PLAIN, MatrixReader, StoredMatrix
from fewbits.checkpoints.older_names import open_weights
from fewbits.errors import LoadingError
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.evaluation.gguf_tensors import GGUFTensors
from fewbits.evaluation.huggingface_model import HuggingFaceModel
from fewbits.evaluation.model_files import first_sentence, quiet_transformers
from fewbits.evaluation.network_kinds import stands_beside
from fewbits.evaluation.skeleton import bare_network
from fewbits.loading.pieces import Made, Piece


@dataclass(frozen=True)
class Source:
    """A model whose headers were read."""

    path: Path
    config: Any
    """transformers' configuration, which says nothing of quantization."""
    network: Any
    """The class of the network."""
    pieces: Mapping[str, Piece]
    """Name in the checkpoint, or of the parameter -> what it holds."""
    files: tuple[Path, ...]
    """The files that are mapped."""
    dialect: str
    beside: Callable[[str], bool]
    """Whether a name belongs to what stands beside an encoder."""
    generation: Any = None
    """How the model writes text by default; None where nothing says so."""
    rope_factors: torch.Tensor | None = None
    apart: Mapping[str, StoredMatrix] = field(default_factory=dict)
    """Matrices of single experts whose stacks are pieces, by the names that layers of their own would have."""

    @property
    def bytes(self) -> int:
        """Of the files that hold the weights."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def options(self) -> dict[str, Any]:
        """What the network is made with: an encoder without a pooler, where the checkpoint has none."""
        known = signature(self.network.__init__).parameters
        pooled = any("pooler" in name for name in self.pieces)
        return {"add_pooling_layer": False} if "add_pooling_layer" in known and not pooled else {}


def open_source(path: Path) -> Source:
    """The model in a directory or a GGUF file; a FewbitsError, one sentence, where none can be made of it."""
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise LoadingError(
            f"{path}: there is no such model; give a model directory, a GGUF file, or a hub id such as org/name."
        )
    if path.suffix.lower() == ".onnx":
        raise LoadingError(f"{path} is an ONNX graph, which ONNX Runtime runs; give a model directory or a GGUF file.")
    return _open_gguf(path)


def _open_directory(path: Path) -> Source:
    directory = HuggingFaceModel.open(path)
    config = directory.config
    quantized = open_quantized(path)
    plain, files = open_weights(path)
    reader: MatrixReader = quantized or plain
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # whatever the dialect, the network computes with our modules
    return Source(
        path=path,
        config=config,
        network=_class_for(path, config),
        pieces={name: reader.read(name) for name in reader.names()},
        files=tuple(file for file in files if file.suffix == ".safetensors"),
        dialect=quantized.dialect_name if quantized else "",
        beside=stands_beside(config),
        generation=_generation(path),
    )


def open_weights_of(path: Path, config: Any, network: Any) -> Source:
    """The weights in a quantized directory for a network that transformers has made; CheckpointError as others."""
    quantized = open_quantized(path)
    if quantized is None:
        raise LoadingError(f"{path}: config.json says that its weights are quantized, and their header does not.")
    _, files = open_weights(path)
    pieces: dict[str, Piece] = {name: quantized.read(name) for name in quantized.names()}
    mapped = tuple(file for file in files if file.suffix == ".safetensors")
    return Source(path, config, network, pieces, mapped, quantized.dialect_name, lambda name: False)


def _generation(path: Path) -> Any:
    """What generation_config.json says; None where there is none."""
    if not (path / "generation_config.json").is_file():
        return None
    try:
        with quiet_transformers() as transformers:
            return transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise LoadingError(f"{path}: generation_config.json cannot be used ({first_sentence(error)}).") from error


def _class_for(path: Path, config: Any) -> Any:
    """The class that the configuration names, or the causal language model of its kind."""
    stated = (config.architectures or [None])[0]
    with quiet_transformers() as transformers:
        found = getattr(transformers, stated, None) if isinstance(stated, str) else None
        if isclass(found) and issubclass(found, transformers.PreTrainedModel):
            return found
    return type(bare_network(path, lambda _: config))


# ---- GGUF


def _open_gguf(path: Path) -> Source:
    model = GGUFModel.open(path)
    with quiet_transformers() as transformers:
        config = model.configuration(transformers)
    network = bare_network(path, lambda _: config)
    tensors = model.tensors(network)
    metadata = model.reader.metadata
    ends = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    config.bos_token_id, config.eos_token_id, padding = (each and int(each.value) for each in ends.values())
    config.pad_token_id = config.pad_token_id if padding is None else padding
    kind = type(network)
    config.architectures = [kind.__name__]
    return Source(
        path=path,
        config=config,
        network=kind,
        pieces={name: _piece(tensors, name) for name, _ in network.named_parameters()},
        files=model.reader.files,
        dialect="gguf",
        beside=lambda name: False,
        rope_factors=model.rope_factors(),
        apart=_apart(tensors, [name for name, parameter in network.named_parameters() if parameter.dim() == 3]),
    )


def _piece(tensors: GGUFTensors, name: str) -> Piece:
    """The parameter `name`: its rows as they are stored, where they are in a format that is known here."""
    matrix = tensors.matrix(name)
    if matrix is not None and matrix.format in formats.FORMATS:
        return matrix
    return Made(partial(tensors.parameter, name), tensors.formats_of(name))


def _apart(tensors: GGUFTensors, names: Iterable[str]) -> dict[str, StoredMatrix]:
    """The matrices of the experts in the stacks `names`, one by one, as they are stored."""
    found = (each for name in names for each in tensors.experts(name) if each.format in formats.FORMATS)
    return {each.name: each for each in found}


def formats_in(source: Source) -> Counter[str]:
    """Format -> how many matrices are stored in it, plain ones left out."""
    stored = [piece for piece in source.pieces.values() if isinstance(piece, StoredMatrix)]
    return Counter(piece.format for piece in stored if piece.format not in PLAIN)
