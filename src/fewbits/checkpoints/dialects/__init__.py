"""Dialects of safetensors: the same codes as other readers lay them out; adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from itertools import chain
from types import MappingProxyType

from fewbits.checkpoints.dialects.base import Configuration, Dialect
from fewbits.checkpoints.fields import PLAIN, Matrix
from fewbits.errors import CheckpointError
from fewbits.registry import Registry

__all__ = [
    "DIALECTS",
    "OWN",
    "READ_ONLY",
    "ROUNDED_AS",
    "Configuration",
    "Dialect",
    "get",
    "recognized",
    "refusal",
    "require_held",
]

OWN = "fewbits"
"""Our own dialect, which holds every format (checkpoints/fields.py)."""

# Name -> module and class; a module is imported when its dialect is asked for.
_DIALECTS = {
    "gptq": ("gptq", "GPTQ"),
    "awq": ("awq", "AWQ"),
    "compressed-tensors": ("compressed_tensors", "CompressedTensors"),
    "bitsandbytes": ("bitsandbytes", "BitsAndBytes"),
    "fp8": ("fp8_tiles", "FP8Tiles"),
    "mlx": ("mlx", "MLX"),
    "hqq": ("hqq", "HQQ"),
    "torchao": ("torchao", "TorchAO"),
}

_READ_ONLY = {"mxfp4": ("mxfp4_stacks", "MXFP4Stacks")}

ROUNDED_AS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("compressed-tensors", "nvfp4"): "nvfp4_divided",
        ("bitsandbytes", "int8_row_sym"): "int8_row_absmax",
    }
)
"""Dialect and format -> the format that differs from it in how the dialect's readers round alone."""

DIALECTS: Registry[Dialect] = Registry("dialect", CheckpointError)

READ_ONLY: Registry[Dialect] = Registry("dialect that is read and not written", CheckpointError)


def _load(module: str, kind: str) -> Dialect:
    dialect: Dialect = getattr(import_module(f"fewbits.checkpoints.dialects.{module}"), kind)()
    return dialect


for _name, _where in _DIALECTS.items():
    DIALECTS.add_later(_name, partial(_load, *_where))

for _name, _where in _READ_ONLY.items():
    READ_ONLY.add_later(_name, partial(_load, *_where))


def get(name: str) -> Dialect:
    """The dialect called `name`; raises CheckpointError, naming the nearest known names."""
    return DIALECTS.get(name)


def recognized(configuration: Configuration) -> Dialect | None:
    """The dialect of a checkpoint with this `quantization_config`; None where none knows it."""
    known = chain(map(DIALECTS.get, DIALECTS), map(READ_ONLY.get, READ_ONLY))
    return next((dialect for dialect in known if dialect.recognizes(configuration)), None)


def refusal(dialect: Dialect, matrix: Matrix) -> str | None:
    """Why `dialect` cannot hold `matrix`, as a phrase that follows its name; None where it can."""
    if matrix.outliers:
        return f"keeps {matrix.outliers} columns in 16 bits, which only --dialect fewbits can say"
    if matrix.activation and matrix.activation not in dialect.inputs:
        return f"has its inputs rounded as {matrix.activation}, which the dialect {dialect.name} cannot say"
    if matrix.ordered and not dialect.holds_order:
        return f"has its columns in an order of their own, which the dialect {dialect.name} cannot say"
    if matrix.transposed:
        return "lies with its columns as rows in this architecture (Conv1D), which only --dialect fewbits can say"
    return dialect.refuses(matrix)


def require_held(dialect: Dialect, matrices: Iterable[Matrix]) -> None:
    """Raise CheckpointError, naming the first matrix, and how many there are, that `dialect` cannot hold."""
    refused = [(m.name, why) for m in matrices if m.format not in PLAIN and (why := refusal(dialect, m))]
    if refused:
        name, why = refused[0]
        more = f" ({len(refused)} matrices in all)" if len(refused) > 1 else ""
        raise CheckpointError(f"tensor {name} {why}{more}; --dialect fewbits holds every format.")
