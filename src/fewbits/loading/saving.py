"""Packed modules as the tensors of a dialect, for `save_pretrained`: one that others load where one holds them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewbits.activations import ACTIVATIONS
from fewbits.checkpoints import dialects
from fewbits.checkpoints.dialects import OWN, Dialect, require_held
from fewbits.checkpoints.directory_layout import METHOD, stated_in_headers, stated_quantization
from fewbits.checkpoints.fields import DTYPES, PLAIN, Matrix, field_name, statement
from fewbits.errors import CheckpointError
from fewbits.layers.experts import Experts
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Conv1D, Embedding, Packed
from fewbits.loading.planned import PREFERRED
from fewbits.qtensor import ORDER, outlier_count

_TORCH: Mapping[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U32": torch.uint32,
}
"""Dtype of safetensors that numpy has no type of its own for, or torch another name -> torch's."""
_PLAIN = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _PLAIN.items()}


@dataclass(frozen=True)
class Saved:
    """What `save_pretrained` writes."""

    dialect: str
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]
    """Entries for the header of each file."""
    configuration: dict[str, Any]
    """`quantization_config`; empty where nothing is quantized."""


def saved(network: Any, dialect: str | None, recipe: str) -> Saved:
    """`network` in `dialect`, or where that is None in the first that others load and that holds all of it, else ours.

    Raises CheckpointError where `dialect` cannot hold a matrix.
    """
    packed = _packed(network)
    stated = {name: _matrix(name, module) for name, module in packed.items() if module.matrix.format not in PLAIN}
    matrices = list(stated.values())
    name = dialect if dialect is not None else _chosen(network, matrices)
    kind = None if name == OWN else dialects.get(name)
    if kind is not None:
        _require_held(network, kind, matrices)
    plain = _plain(network)
    plain |= {name: _numbers(module) for name, module in packed.items() if name not in stated}
    others = [Matrix(name, _NAMES[t.dtype], tuple(t.shape)) for name, t in plain.items() if t.dtype in _NAMES]
    tensors = dict(plain)
    for matrix in matrices:
        tensors |= _tensors(matrix, packed[matrix.name].matrix, kind)
    return Saved(
        dialect=name if matrices else "",
        tensors=tensors,
        metadata=_metadata(network, [*matrices, *others], matrices, kind) if matrices else {},
        configuration=stated_quantization([*matrices, *others], matrices, recipe, kind) if matrices else {},
    )


def packed_weights(network: Any) -> Iterator[tuple[str, Packed, Matrix]]:
    """Name of the weight, its module, and what is stated of its matrix; of those that share one the first."""
    for name, module in _packed(network).items():
        yield name, module, _matrix(name, module)


def _packed(network: Any) -> dict[str, Packed]:
    """Name of the weight -> its module; of those that share a matrix the first."""
    found: dict[str, Packed] = {}
    seen = set()
    for name, module in network.named_modules():
        if isinstance(module, Packed) and id(module.matrix) not in seen:
            seen.add(id(module.matrix))
            found[f"{name}.weight"] = module
    return found


def _plain(network: Any) -> dict[str, torch.Tensor]:
    """The state of everything else."""
    inside = tuple(f"{name}.matrix." for name, module in network.named_modules() if isinstance(module, Packed))
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(inside)}


def _matrix(name: str, module: Packed) -> Matrix:
    matrix = module.matrix
    if "rounding" in module._modules:
        raise CheckpointError(
            f"{name} multiplies inputs under a static range, which no dialect of matrices holds; "
            "save the module with torch.save, or train with a rounding per token (int8_token)."
        )
    return Matrix(
        name,
        matrix.format,
        matrix.shape,
        activation=module.inputs if module.inputs in ACTIVATIONS else None,
        outliers=outlier_count(matrix.stored()),
        transposed=isinstance(module, Conv1D),
        ordered=ORDER in matrix.fields,
    )


def _numbers(module: Packed) -> torch.Tensor:
    """A plain matrix as the network has it, in the bits in which it is stored."""
    data = module.matrix.get_buffer("data").contiguous().view(_PLAIN[module.matrix.format])
    return data.T.contiguous() if isinstance(module, Conv1D) else data.reshape(module.shape_of_weight)


def _tensors(matrix: Matrix, packed: PackedMatrix, dialect: Dialect | None) -> dict[str, torch.Tensor]:
    """What holds a quantized matrix."""
    fields = packed.stored()
    if dialect is None:
        return {
            field_name(matrix.name, key): _tensor(field, DTYPES[matrix.shapes[key][0]]) for key, field in fields.items()
        }
    arrays = dialect.pack(matrix, fields)
    return {name: _tensor(arrays[name], kind).reshape(shape) for name, (kind, shape) in dialect.slots(matrix).items()}


def _tensor(array: Any, kind: str) -> torch.Tensor:
    """The numbers of an array as safetensors' type `kind`, of which it may hold the bits alone."""
    own = np.array(array)  # what transformers writes is its own
    wide = {"BF16": np.int16, "U32": np.int32}.get(kind)
    found = torch.from_numpy(own.view(wide) if wide else own)
    return found.view(_TORCH[kind]) if kind in _TORCH else found


def _metadata(network: Any, tensors: list[Matrix], matrices: list[Matrix], dialect: Dialect | None) -> dict[str, str]:
    if dialect is None:
        return {METHOD: statement(matrices)}
    dtype = str(network.dtype).removeprefix("torch.")
    return {"quantized_by": METHOD, **stated_in_headers({"dtype": dtype}, tensors, dialect)}


def _chosen(network: Any, matrices: list[Matrix]) -> str:
    """The first dialect that other programs load and that holds `matrices`; ours for experts that lie one by one.

    What those are called in a directory is transformers' own affair, decided for each kind of model.
    """
    if any(isinstance(module, Experts) for module in network.modules()):
        return OWN
    for name in PREFERRED:
        try:
            _require_held(network, dialects.get(name), matrices)
        except CheckpointError:
            continue  # this one does not hold one of them
        return name
    return OWN


def _require_held(network: Any, dialect: Dialect, matrices: list[Matrix]) -> None:
    """Raise CheckpointError where the dialect cannot hold a matrix, or its readers would not look for it there."""
    require_held(dialect, matrices)
    ends = [network.get_input_embeddings(), network.get_output_embeddings()]
    for name, module in network.named_modules():
        looked_up = isinstance(module, Embedding) or any(module is end for end in ends)
        if looked_up and isinstance(module, Packed) and module.matrix.format not in PLAIN:
            raise CheckpointError(
                f"{name} is {module.matrix.format}, and readers of the dialect {dialect.name} want embeddings and the "
                f"output matrix as plain numbers; --dialect {OWN} holds every format."
            )
    if matrices:
        dialect.configuration(matrices, [])  # which may refuse several formats
