"""torchao's dialect: the parts of its classes of tensors in safetensors, and in the header of each file what they are.

Every file's `__metadata__` states every tensor of the model: the class, its facts and its parts, and "tensor_names",
which there are. `quantization_config` says how torchao would quantize so; readers take the header's word. Where several
classes hold a format, the first one of KINDS is written: CUDA's for 4 bits in BF16, else those that any device has.
Source: torchao.prototype.safetensors 0.18 and transformers' torchao quantizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits.checkpoints.dialects.base import WEIGHT, Arrays, Configuration, Files, Slots, array, stem
from fewbits.checkpoints.dialects.torchao_classes import Kind, Said, part_name, refused, typed
from fewbits.checkpoints.dialects.torchao_floats import Float8, NVFP4Plain, NVFP4Tiled
from fewbits.checkpoints.dialects.torchao_integers import Int4, Int8, Intx
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.jsonfile import parse_object
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

KINDS: tuple[Kind, ...] = (Int4(), Int8(), Intx(), Float8(), NVFP4Plain())
_READ: Mapping[tuple[str, bool], Kind] = {
    **{(kind.name, False): kind for kind in KINDS},
    (NVFP4Tiled.name, True): NVFP4Tiled(),
}
"""Class, and whether its scales lie in tiles -> what reads it."""

NAMES = "tensor_names"
"""The entry of the header that lists the tensors it states."""
_PLAIN = "Tensor"
_EXPERT = re.compile(r"\.experts\.\d+\.")
_WHY_NOT: Mapping[str, str] = {
    "Int4TilePackedTo4dTensor": "whose codes lie in tiles of a CUDA kernel, with zero points in floats",
    "Int4PlainInt32Tensor": "whose codes lie as an Intel GPU or an NPU wants them",
    "MXTensor": "whose readers always round inputs to MX, which no format of inputs here is",
}
"""Classes that are saved in safetensors and not read here."""


@dataclass(frozen=True)
class Stated(Matrix):
    """A matrix of a file, with the class and the parts that its header states."""

    kind: Kind | None = None
    stated: frozenset[str] = frozenset()


class TorchAO:
    """Whole numbers of 2 to 8 bits, FP8, and NVFP4; INT8 and FP8 per row with inputs rounded too."""

    name = "torchao"
    readers = "transformers, torchao, vLLM"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs = frozenset(("int8_token", "fp8_token"))
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """What none of the classes can be."""
        if len(matrix.shape) != 2:
            return f"has {len(matrix.shape)} sides, and torchao's dialect holds matrices of two"
        if not matrix.name.endswith(WEIGHT):
            return "is no weight of a module, and torchao's dialect holds such alone"
        if _EXPERT.search(matrix.name):
            return (
                "is a matrix of an expert, and readers of torchao's dialect have all experts of a layer in one stack, "
                "which is not written; take --dialect compressed-tensors"
            )
        if any(kind.holds(matrix) for kind in KINDS):
            return None
        inputs = f" with inputs rounded as {matrix.activation}" if matrix.activation else ""
        return (
            f"is {matrix.format}{inputs}, and torchao's dialect holds whole numbers of 2 to 8 bits per group or row, "
            "FP8 with scales of 32 bits per row, tensor or group, and nvfp4: int4_g128_sym_bf16, int8_row_sym or "
            "fp8_e4m3_row for instance"
        )

    def slots(self, matrix: Matrix) -> Slots:
        """The parts of the class; of a matrix of a file those that its header states."""
        kind = _kind(matrix)
        there = matrix.stated if isinstance(matrix, Stated) else None
        parts = kind.parts(matrix).items()
        return {part_name(matrix.name, part): slot for part, slot in parts if there is None or part in there}

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The parts of the class."""
        packed = _kind(matrix).pack(matrix, fields)
        return {part_name(matrix.name, part): numbers for part, numbers in packed.items()}

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """What transformers' TorchAoConfig writes: one configuration, or one for each module where they differ."""
        each = {stem(matrix.name): _kind(matrix).configuration(matrix) for matrix in matrices}
        same = all(one == next(iter(each.values())) for one in each.values())
        several = typed("FqnToConfig", {"fqn_to_config": each}, 1)
        return {
            "quant_method": self.name,
            "quant_type": {"default": next(iter(each.values())) if each and same else several},
            "modules_to_not_convert": [stem(name) for name in plain] or None,
            "include_input_output_embeddings": False,
            "untie_embedding_weights": False,
        }

    def header(self, tensors: Sequence[Matrix], plain: Sequence[str], dtype: str) -> dict[str, str]:
        """Every tensor of the model: of matrices class, facts and parts."""
        stated: dict[str, dict[str, Any]] = {name: {"_type": _PLAIN} for name in plain}
        for matrix in tensors:
            kind = _kind(matrix)
            parts = {"_tensor_data_names": list(kind.parts(matrix))}
            stated[matrix.name] = {**typed(kind.name, kind.facts(matrix, dtype)), **parts}
        return {NAMES: json.dumps(list(stated)), **{name: json.dumps(said) for name, said in stated.items()}}

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == self.name

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever the header states as something else than plain."""
        return {said.name: _matrix(said, files) for said in _statements(files)}

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """The parts as the fields of the format."""
        found = {name: array(files, name, *slot) for name, slot in self.slots(matrix).items()}
        first = part_name(matrix.name, "")
        return _kind(matrix).unpack(matrix, {name.removeprefix(first): part for name, part in found.items()})


def _kind(matrix: Matrix) -> Kind:
    """The class that a matrix is in a file, or will be."""
    if isinstance(matrix, Stated) and matrix.kind is not None:
        return matrix.kind
    return next(kind for kind in KINDS if kind.holds(matrix))


def _statements(files: Files) -> list[Said]:
    """What the header states of all tensors that are not plain; raises CheckpointError where it does not."""
    metadata = files.metadata
    if NAMES not in metadata:
        raise CheckpointError(
            "the checkpoint is in torchao's dialect, and the headers of its weights do not say what they are, or not "
            f"all of them the same (no {NAMES}): save it again with torchao 0.15 or newer, or start from the original "
            "model."
        )
    text = f'{{"{NAMES}": {metadata[NAMES]}}}'.encode("utf-8", "surrogatepass")
    listed = parse_object(text, f"{NAMES} of torchao's header")[NAMES]
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise CheckpointError(
            f"{NAMES} of torchao's header is {quoted(listed)}, no list of names; the file is damaged."
        )
    return [said for name in listed if (said := _said(name, metadata)) is not None]


def _said(name: str, metadata: Mapping[str, Any]) -> Said | None:
    """What the header states of one tensor; None of a plain one."""
    what = f"the statement of torchao's header on {quoted(name)}"
    if name not in metadata:
        raise CheckpointError(
            f"there is no {what.removeprefix('the ')}, or files contradict each other; it is damaged."
        )
    stated = parse_object(str(metadata[name]).encode("utf-8", "surrogatepass"), what)
    kind, facts, parts = (stated.get(key) for key in ("_type", "_data", "_tensor_data_names"))
    if kind == _PLAIN:
        return None
    if not isinstance(kind, str) or not isinstance(facts, dict) or not isinstance(parts, list):
        raise CheckpointError(f"{what} says no _type, _data and _tensor_data_names; the file is damaged.")
    return Said(name, kind, facts, frozenset(map(str, parts)))


def _matrix(said: Said, files: Files) -> Stated:
    """The matrix that is stated; raises CheckpointError where no class here reads it, or it has other parts."""
    kind = _READ.get((said.kind, bool(said.facts.get("is_swizzled_scales"))))
    if kind is None:
        why = _WHY_NOT.get(said.kind, "which is not read here")
        name = f"tensor {quoted(said.name)} is of torchao's class {quoted(said.kind)[1:-1]}"
        raise CheckpointError(f"{name}, {why}; start from the original model.")
    if not said.name.endswith(WEIGHT):
        raise refused(said, "and no weight of a module; such are not read")
    if not kind.needs <= said.parts:
        raise refused(said, f"without {quoted(sorted(kind.needs - said.parts)[0])}; the file is damaged")
    if strange := sorted(said.parts - kind.needs - kind.may):
        raise refused(said, f"with {quoted(strange[0])} beside its codes, which no format here says")
    return Stated(**vars(kind.stated(said, files)), kind=kind, stated=said.parts)
