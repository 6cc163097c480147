"""Open a source that lies on this machine: a Hugging Face directory, or a GGUF or ONNX file not yet quantized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fewbits.checkpoints.base import WEIGHT_TYPES, Conversion, Placement
from fewbits.checkpoints.gguf import MAGIC
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.projectors import is_projector, projectors_in
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

_WRITTEN_ANEW = ("general.architecture", "general.file_type", "general.quantization_version")
"""Metadata that belongs to the file, not to the model: whoever writes the new file states it."""


PROJECTOR = (
    "The source is a multimodal projector, no language model: as llama-quantize does it, its matrices are quantized, "
    "and embeddings of patches and positions stay as they are; llama.cpp takes the output by --mmproj."
)


def open_source(source: str, *, name: str | None = None, pickles: bool = False) -> Conversion:
    """`source` as the GGUF file it will become; raises CheckpointError, one sentence, when it cannot be one.

    `name` is the display name of the model in a directory (None: the directory's); `pickles` allows PyTorch's own
    weights there.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _convert(path, name, pickles=pickles)
    if path.is_file():
        return _open_file(path)
    if path.exists():
        raise CheckpointError(f"{source} is neither a file nor a directory.")
    raise CheckpointError(
        f"{source} does not exist; give a Hugging Face model directory, a GGUF file, or a hub id such as org/name."
    )


def _convert(path: Path, name: str | None, *, pickles: bool) -> Conversion:
    from fewbits.checkpoints.huggingface import convert_directory  # tokenizers and all: a GGUF file needs none of it

    return replace(convert_directory(path, name=name, pickles=pickles), projectors=projectors_in(path))


def _open_file(path: Path) -> Conversion:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == MAGIC:
        return convert_gguf(path)
    if path.suffix.lower() == ".onnx":
        from fewbits.checkpoints.onnx.source import convert_onnx

        return convert_onnx(path)
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is one file of a model; give the directory, which has its config.json as well.")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when opened and is refused: convert it where you trust it with "
            "transformers, AutoModelForCausalLM.from_pretrained(DIR, weights_only=True)"
            ".save_pretrained(OUT, safe_serialization=True)."
        )
    raise CheckpointError(f"{path} is no GGUF file; give a Hugging Face model directory, a GGUF file, or an ONNX file.")


def convert_gguf(path: Path) -> Conversion:
    """The GGUF file `path`, with its other parts if it is one of several, as a source: nothing of it changes.

    Raises CheckpointError when it is quantized.
    """
    reader = open_gguf(path)
    stated = reader.metadata.get("general.architecture")
    if stated is None or stated.type != "string":
        raise CheckpointError(f"{path} does not state its architecture (general.architecture); it holds no model.")
    tensors = [reader.read(name) for name in reader.names()]
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    for tensor in tensors:
        if tensor.format not in WEIGHT_TYPES:
            raise CheckpointError(
                f"{path} is already quantized: tensor {quoted(tensor.name)} is {tensor.format}; "
                "start from the original model, never a second rounding."
            )
    return Conversion(
        architecture=stated.value,
        metadata={key: value for key, value in reader.metadata.items() if key not in _WRITTEN_ANEW},
        placements=tuple(Placement(tensor.name, tensor) for tensor in tensors),
        files=reader.files,
        notes=(PROJECTOR,) if is_projector(reader.metadata) else (),
        projectors=() if is_projector(reader.metadata) else projectors_in(path.parent),
    )
