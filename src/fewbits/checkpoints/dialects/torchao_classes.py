"""torchao's classes of quantized tensors: what one has to say of itself, and the JSON that headers say it in.

A header states of each tensor `_type` (the class), `_data` (its facts) and `_tensor_data_names` (its parts).
NAME.weight lies in a file as NAME._weight_qdata, NAME._weight_scale and so on. Source: torchao 0.18, the peer in tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fewbits.checkpoints.dialects.base import Arrays, Files, Slots
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

CODES, SCALE, ZERO, TENSOR_SCALE = "qdata", "scale", "zero_point", "per_tensor_scale"
TENSOR, ROW = "tensor", "row"


@dataclass(frozen=True)
class Said:
    """What the header of a file states of one tensor."""

    name: str
    kind: str
    """The class."""
    facts: Mapping[str, Any]
    parts: frozenset[str]


def part_name(tensor: str, part: str) -> str:
    """The name in the file.

    >>> part_name("model.layers.0.mlp.up_proj.weight", "qdata")
    'model.layers.0.mlp.up_proj._weight_qdata'
    """
    module, _, leaf = tensor.rpartition(".")
    return f"{module}._{leaf}_{part}"


class Kind(Protocol):
    """One of torchao's classes."""

    @property
    def name(self) -> str:
        """What torchao calls it."""

    @property
    def needs(self) -> frozenset[str]:
        """Parts without which there is nothing."""

    @property
    def may(self) -> frozenset[str]:
        """Parts beside them."""

    def holds(self, matrix: Matrix) -> bool:
        """Whether it can be `matrix`."""

    def parts(self, matrix: Matrix) -> Slots:
        """Part -> dtype and shape."""

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Part -> numbers."""

    def unpack(self, matrix: Matrix, parts: Arrays) -> Fields:
        """The fields of the format; raises CheckpointError where no field holds what is there."""

    def facts(self, matrix: Matrix, dtype: str) -> dict[str, Any]:
        """`_data` of the header, where the model computes in torch's `dtype`."""

    def configuration(self, matrix: Matrix) -> dict[str, Any]:
        """The configuration that makes torchao quantize so."""

    def stated(self, said: Said, files: Files) -> Matrix:
        """The matrix that a file says it is; raises CheckpointError where no format here is that."""


def typed(kind: str, data: object, version: int | None = None) -> dict[str, Any]:
    """An object as torchao writes it: in headers without a version, in configurations with one."""
    return {"_type": kind, **({} if version is None else {"_version": version}), "_data": data}


def dtype_of(name: str) -> dict[str, Any]:
    """One of torch's types."""
    return typed("torch.dtype", name)


def granularity(group: int, *, per_tensor: bool = False) -> dict[str, Any]:
    """What shares a scale, in configurations: so many columns, or for 0 a row."""
    if per_tensor:
        return typed("PerTensor", {}, 1)
    return typed("PerGroup", {"group_size": group}, 1) if group else typed("PerRow", {"dim": -1}, 1)


def refused(said: Said, why: str) -> CheckpointError:
    """The error for a tensor that is not read."""
    return CheckpointError(f"tensor {quoted(said.name)} is of torchao's class {quoted(said.kind)[1:-1]} {why}.")


def scope_of(said: Said, shape: tuple[int, int]) -> str | int:
    """What shares a scale: TENSOR, ROW, or so many columns of a row; raises CheckpointError for anything else."""
    shared = said.facts.get("block_size")
    if not isinstance(shared, list) or len(shared) != 2 or not all(type(n) is int and n > 0 for n in shared):
        raise refused(said, f"with block_size {quoted(shared)}, not two counts; the file is damaged")
    if shared == [1, shape[1]]:
        return ROW
    if shared == list(shape):
        return TENSOR
    if shared[0] != 1 or shared[1] < 2 or shape[1] % shared[1]:
        raise refused(said, f"whose scales serve {quoted(shared)} of its {list(shape)}, and groups of a row are read")
    return int(shared[1])


def require_none(said: Said, key: str, what: str) -> None:
    """Raise CheckpointError, saying `what` it has, where a tensor states anything under `key`."""
    if said.facts.get(key) is not None:
        raise refused(said, f"{what} ({key}), which no format here says")


_PER_ROW = typed("PerRow", {"dim": -1})
INT8_INPUTS = {
    "granularity": _PER_ROW,
    "mapping_type": typed("MappingType", "SYMMETRIC"),
    "reduce_range": False,
}
FLOAT8_INPUTS = {
    "float8_dtype": dtype_of("float8_e4m3fn"),
    "granularity": _PER_ROW,
    "mm_config": typed("Float8MMConfig", {"emulate": False, "use_fast_accum": True, "pad_inner_dim": False}),
    "hp_value_lb": None,
    "hp_value_ub": None,
    "kernel_preference": typed("KernelPreference", "AUTO"),
}
_ROUNDINGS = {"QuantizeTensorToInt8Kwargs": "int8_token", "QuantizeTensorToFloat8Kwargs": "fp8_token"}
_SPEED = ("mm_config", "kernel_preference")
"""What only says which kernel multiplies."""


def activation_of(said: Said, kind: str, known: Mapping[str, Any]) -> str | None:
    """How inputs are rounded; raises CheckpointError where they are in a way that is not known here."""
    stated = said.facts.get("act_quant_kwargs")
    if stated is None:
        return None
    data = stated.get("_data") if isinstance(stated, dict) and stated.get("_type") == kind else None
    wanted = {key: value for key, value in known.items() if key not in _SPEED}
    if not isinstance(data, dict) or any(data.get(key) != value for key, value in wanted.items()):
        raise refused(said, f"with inputs rounded as {quoted(stated)}; known are 8 bits per token, symmetric")
    return _ROUNDINGS[kind]
