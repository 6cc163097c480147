"""What every dialect of ONNX graphs must do: give back, bit by bit, what it holds, and refuse the rest in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.dialects import GraphDialect, GraphMatrix
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.layout import plan_layout
from fewbits.checkpoints.onnx.products import product_of
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.checkpoints.onnx.rewriting import Edit, rewrite
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import COLS, MORE, ROWS, coded
from fewbits.testing.expect import expect, expect_equal

NAME = "model.layers.3.mlp.up_proj.weight"
OPSET = 25
"""In which DequantizeLinear has every type."""


def graph_matrix(format_name: str, *, transposed: bool = True) -> GraphMatrix:
    """A matrix of that format, its columns as rows in the graph or not."""
    dims = (COLS, ROWS) if transposed else (ROWS, COLS)
    return GraphMatrix(NAME, format_name, (ROWS, COLS), transposed=transposed, dims=dims)


def held(dialect: GraphDialect) -> list[str]:
    """Names of formats, among those known here, that `dialect` can hold."""
    known = dict.fromkeys([*formats.members(), *MORE, *_OTHERS])
    fitting = (name for name in known if formats.fits(formats.get(name), COLS))
    return [name for name in fitting if dialect.refuses(graph_matrix(name)) is None]


_OTHERS = (
    *("int4_g32_sym", "uint4_g16_asym", "int4_g16_asym", "int8_g64_sym", "uint8_g32_asym", "int2_g32_sym"),
    *("uint2_g16_asym", "int4_row_sym", "uint4_row_asym_f16", "int8_row_asym", "int4_tensor_sym", "uint8_tensor_asym"),
)


def check_graph_dialect(dialect: GraphDialect, matrix: GraphMatrix, folder: Path) -> None:
    """Write a graph of one product with `matrix` into `folder`, and read it again; raises AssertionError."""
    source = _graph(matrix, folder / "source.onnx")
    fields = coded(matrix)
    model = type(source.model)()
    model.CopyFrom(source.model)

    def product(node: Any) -> Any:
        found = product_of(node)
        return found if found is not None and found.weight == NAME else None

    matrices = {NAME: matrix}
    new, _ = rewrite(model, Edit(dialect, matrices, product, lambda _: False))
    written = folder / "written.onnx"
    with OnnxWriter(written, plan_layout(source, model, new, written), dialect, matrices) as writer:
        half = ROWS // 2 if dialect.by_rows else ROWS
        for start in range(0, ROWS, half):
            writer.write_fields(NAME, start, {key: _lines(field, start, half) for key, field in fields.items()})
        writer.sync()
        writer.publish()
    reader = OnnxReader(written)
    expect_equal(reader.dialect_name, dialect.name, "the dialect that is found")
    read = reader.read(NAME)
    assert isinstance(read, StoredMatrix), "a matrix is no plain tensor"
    back = read.load()
    shapes = {key: (str(array.dtype), array.shape) for key, array in back.items()}
    expect_equal(shapes, read.shapes, f"the fields of {read.format} from {dialect.name}")
    one, other = (
        stored_numbers(formats.get(name), each, (ROWS, COLS))
        for name, each in ((matrix.format, fields), (read.format, back))
    )
    expect(bool((one == other).all()), f"{matrix.format} comes back as other numbers from {dialect.name}")
    if read.format == matrix.format:
        for key, field in fields.items():
            same = np.ascontiguousarray(back[key]).tobytes() == np.ascontiguousarray(field).tobytes()
            expect(same, f"the field {key} of {matrix.format} comes back changed from {dialect.name}")


def _lines(field: np.ndarray[Any, Any], start: int, count: int) -> np.ndarray[Any, Any]:
    return field[start : start + count] if len(field) == ROWS else field


def _graph(matrix: GraphMatrix, path: Path) -> OnnxFile:
    """A graph that multiplies with a float matrix of that name."""
    import onnx
    from onnx import helper, numpy_helper

    half = matrix.format.endswith("_f16")
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    given, made = (helper.make_tensor_value_info(name, kind, ["n", side]) for name, side in (("x", COLS), ("y", ROWS)))
    node = helper.make_node("MatMul", ["x", NAME], ["y"])
    if not matrix.transposed:
        node = helper.make_node("Gemm", ["x", NAME], ["y"], transB=1)
    weight = numpy_helper.from_array(np.zeros(matrix.dims, np.float16 if half else np.float32), NAME)
    graph = helper.make_graph([node], "graph", [given], [made], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13), str(path))
    return OnnxFile(path)
