"""Graphs in files, quantized and read again, for the tests of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import fewbits
from fewbits import formats
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.kernels.stored import stored_numbers

TO = {"matmulnbits": "int4_g32_sym", "qdq": "uint4_g16_asym"}


def saved(made: Any, path: Path) -> Path:
    onnx.save(made, path)
    return path


def quantized(made: Any, folder: Path, dialect: str, to: str | None = None, **options: Any) -> Path:
    source, out = saved(made, folder / "source.onnx"), folder / "out.onnx"
    fewbits.quantize(source, out, to=to or TO[dialect], dialect=dialect, force=True, **options)
    return out


def numbers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> decoded matrix (rows, cols)."""
    reader = OnnxReader(path)
    found = {}
    for name in reader.names():
        stored = reader.read(name)
        if isinstance(stored, StoredMatrix):
            found[name] = stored_numbers(formats.get(stored.format), stored.load(), stored.shape).numpy()  # type: ignore[arg-type]
    return found


def close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], limit: float = 1e-5) -> None:
    found, wanted = (each.astype(np.float64) for each in (found, wanted))
    assert np.linalg.norm(found - wanted) <= limit * np.linalg.norm(wanted)


def floats_replaced(made: Any, decoded: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The source with decoded matrices in place of its own: what the quantized graph has to compute."""
    copy = type(made)()
    copy.CopyFrom(made)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, matrix in decoded.items():
        tensor = weights[name]
        turned = tuple(tensor.dims) != matrix.shape or any(
            node.op_type == "MatMul" and name in node.input for node in nodes_of(copy.graph)
        )
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        lies = matrix if len(tensor.dims) > 2 or not turned else matrix.T
        array = np.ascontiguousarray(lies.reshape(tensor.dims).astype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy


def nodes_of(graph: Any) -> list[Any]:
    inner = [each.g for node in graph.node for each in node.attribute if each.HasField("g")]
    return [*graph.node, *(node for each in inner for node in nodes_of(each))]
