"""What HQQ stores beside codes, scales and zero points: each fact of a matrix as a tensor of its own.

Whole numbers are I32 and truths U8, both without sides; words are U8, a byte per letter; the shape is I64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import WIDTHS, Arrays, Configuration, Files, Slots
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

PACKING = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}
NAMES = {"f16": "torch.float16", "bf16": "torch.bfloat16", "f32": "torch.float32"}
_LARGEST = 2**31
"""Sides and groups beyond are taken for damage."""


@dataclass(frozen=True)
class Meta:
    """What there is to know of one matrix."""

    nbits: int
    group_size: int
    shape: tuple[int, int]
    scale: str
    """The word for the type of scales and zero points, which is the one that the reader computes in."""

    @property
    def dtype(self) -> str:
        """That type as torch calls it."""
        return NAMES[self.scale]

    def arrays(self) -> Arrays:
        """All facts as tensors, under the names that they have in a module."""
        whole = {"nbits": self.nbits, "group_size": self.group_size, "axis": 1}
        truths = {
            **dict.fromkeys(("channel_wise", "optimize", "encoded_state_dict", "stores_quant_config"), True),
            **dict.fromkeys(("round_zero", "view_as_float", "quant_scale", "quant_zero", "offload_meta"), False),
        }
        words = {
            "packing": PACKING[self.nbits],
            "unpack_view_dtype": "torch.int32" if self.nbits == 3 else "torch.uint8",
            "compute_dtype": self.dtype,
        }
        return {
            **{key: np.array(value, np.int32) for key, value in whole.items()},
            **{key: np.array(value, np.uint8) for key, value in truths.items()},
            **{key: np.frombuffer(word.encode("ascii"), np.uint8) for key, word in words.items()},
            "shape": np.array(self.shape, np.int64),
        }

    def slots(self) -> Slots:
        """Their dtypes and shapes."""
        names = {np.dtype("int32"): "I32", np.dtype("uint8"): "U8", np.dtype("int64"): "I64"}
        return {key: (names[each.dtype], each.shape) for key, each in self.arrays().items()}


def meta_of(files: Files, module: str, bits: Sequence[int]) -> Meta:
    """What a file says of a module; raises CheckpointError where it is damaged, or what is not read here."""
    nbits, group, axis = (_number(files, f"{module}.{key}", "I32") for key in ("nbits", "group_size", "axis"))
    shape = _read(files, f"{module}.shape", "I64", (2,)).tolist()
    if axis != 1:
        raise CheckpointError(
            f"tensor {quoted(module)}.axis is {axis}: its groups run down the columns, which no format here does; "
            "start from the original model, or quantize it with axis = 1."
        )
    for key in ("view_as_float", "quant_scale", "quant_zero"):
        if _number(files, f"{module}.{key}", "U8"):
            raise CheckpointError(f"tensor {quoted(module)}.{key} is set, and such codes are not read here.")
    if not (0 < group <= _LARGEST and all(0 < side < _LARGEST for side in shape) and shape[1] % group == 0):
        raise CheckpointError(f"{quoted(module)} is stated as {shape} in groups of {group} columns; it is damaged.")
    packing, dtype = (_word(files, f"{module}.{key}") for key in ("packing", "compute_dtype"))
    scale = next((word for word, name in NAMES.items() if name == dtype), None)
    if nbits not in bits or packing != PACKING[nbits] or scale is None:
        raise CheckpointError(
            f"{quoted(module)} is stated as {nbits} bits, packed as {quoted(packing)}, computed in {quoted(dtype)}, "
            "which are not known together; the file is damaged."
        )
    return Meta(nbits, group, (shape[0], shape[1]), scale)


def configured(nbits: int, group_size: int | None, skipped: Sequence[str]) -> dict[str, Any]:
    """`quantization_config` as transformers' HqqConfig writes it."""
    weights = {
        "nbits": nbits,
        "channel_wise": True,
        "group_size": group_size,
        "optimize": True,
        "round_zero": False,
        "axis": 1,
        "view_as_float": False,
    }
    facts = {"weight_quant_params": weights, "scale_quant_params": None, "zero_quant_params": None}
    return {"quant_config": {**facts, "offload_meta": False}, "quant_method": "hqq", "skip_modules": list(skipped)}


def stated_group(configuration: Configuration) -> int | None:
    """The columns of a group by the configuration; None where it states none, or a row."""
    found: Any = configuration
    for key in ("quant_config", "weight_quant_params", "group_size"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if type(found) is int else None


def _read(files: Files, name: str, dtype: str, shape: tuple[int, ...] | None) -> Any:
    stored = files.read(name)
    if stored.format != dtype or (shape is not None and stored.shape != shape) or prod(stored.shape) > 64:
        wanted = "some letters" if shape is None else list(shape)
        raise CheckpointError(
            f"tensor {quoted(name)} is {quoted(stored.format)} {list(stored.shape)} and should be {dtype} {wanted}; "
            "the file is damaged, or not of HQQ's library."
        )
    return stored.buffer.view(WIDTHS[dtype])


def _number(files: Files, name: str, dtype: str) -> int:
    return int(_read(files, name, dtype, ())[0])


def _word(files: Files, name: str) -> str:
    return bytes(_read(files, name, "U8", None)).decode("latin-1")
