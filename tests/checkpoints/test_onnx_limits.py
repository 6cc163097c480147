"""What ONNX graphs are not quantized, and which version a graph states afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import fewbits
from checkpoints.graphs_on_disk import close, floats_replaced, numbers, quantized, saved
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.weights import find_weights
from fewbits.errors import CheckpointError
from references.onnx_graphs import (
    attention,
    furnished,
    inputs_of,
    mlp,
    model,
    random,
)
from references.onnx_numbers import run

# --- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "opset", "raised"), [("int8_row_sym", 13, 13), ("int4_g32_sym", 14, 21)])
def test_the_version_is_raised_only_where_it_must_be(to: str, opset: int, raised: int, tmp_path: Path) -> None:
    made = mlp(opset=opset, ir_version=7)
    out = onnx.load(quantized(made, tmp_path, "qdq", to))
    assert out.opset_import[0].version == raised
    assert out.ir_version == (10 if raised == 21 else 7)
    if raised == 21:  # the package's reference knows no DequantizeLinear below 19; ONNX Runtime is asked in peers
        given = inputs_of(made)
        decoded = numbers(tmp_path / "out.onnx")
        close(run(out, given)[0], run(floats_replaced(made, decoded), given)[0])


def test_a_version_in_which_a_node_means_something_else_is_not_stated(tmp_path: Path) -> None:
    made = mlp(opset=17, ir_version=8)
    made.graph.node.append(helper.make_node("ReduceMean", ["y"], ["mean"], axes=[1], name="average"))
    made.graph.output.append(helper.make_tensor_value_info("mean", 1, ["batch", 1]))
    with pytest.raises(CheckpointError, match="the operator 'ReduceMean' of node 'average' means something else"):
        quantized(made, tmp_path, "qdq", "int4_g32_sym")
    quantized(made, tmp_path, "qdq", "int8_row_sym")
    quantized(made, tmp_path, "matmulnbits")


def test_below_version_13_nothing_is_raised(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the graph states 12, of which too much meant something else"):
        quantized(mlp(opset=12, ir_version=7), tmp_path, "qdq", "int8_row_sym")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "dialect", "said"),
    [
        ("nf4_g64", "matmulnbits", "is nf4_g64, and MatMulNBits holds whole numbers of 2, 4 or 8 bits"),
        ("int3_g32_sym", "matmulnbits", "is int3_g32_sym, and MatMulNBits holds"),
        ("int8_row_sym", "matmulnbits", "--dialect qdq holds int8_row_sym"),
        ("int4_g64_sym_dq", "qdq", "is int4_g64_sym_dq, and DequantizeLinear holds"),
        ("Q4_K_M", "matmulnbits", "is Q4_K, and MatMulNBits holds"),
        ("int4_g32_sym", "gptq", "unknown ONNX dialect 'gptq'"),
    ],
)
def test_what_a_dialect_cannot_hold(to: str, dialect: str, said: str, tmp_path: Path) -> None:
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": random(256, 32, seed=1)}, {"x": [1, 256]}, {"y": [1, 32]}
    )
    with pytest.raises(CheckpointError, match=said):
        quantized(made, tmp_path, dialect, to)
    assert [each.name for each in tmp_path.iterdir()] == ["source.onnx"]


def test_a_width_that_groups_do_not_divide_stays(tmp_path: Path) -> None:
    record = fewbits.quantize(
        saved(attention(), tmp_path / "a.onnx"), tmp_path / "b.onnx", to="int4_g64_sym", tensors=["qk=F32"]
    )
    kinds = {each.planned.source_name: each.planned.format for each in record.tensors}  # type: ignore[union-attr]
    assert kinds == {"qk": "F32", "v": "int4_g64_sym", "o": "int4_g64_sym"}
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y"])],
        {"w": random(40, 64, seed=1), "v": random(64, 32, seed=2)},
        {"x": [1, 40]},
        {"y": [1, 32]},
    )
    out = quantized(made, tmp_path, "matmulnbits")
    assert list(numbers(out)) == ["v"]
    assert np.array_equal(numpy_helper.to_array(onnx.load(out).graph.initializer[0]), random(40, 64, seed=1))


def test_containers_do_not_become_each_other(pocket: Path, tmp_path: Path) -> None:
    source = saved(mlp(), tmp_path / "a.onnx")
    for output in ("b.gguf", "b"):
        with pytest.raises(CheckpointError, match="of one only an ONNX file can be made"):
            fewbits.quantize(source, tmp_path / output, to="int4_g32_sym")
    with pytest.raises(CheckpointError, match="which is made of an ONNX file alone"):
        fewbits.quantize(pocket, tmp_path / "b.onnx", to="int4_g32_sym")
    with pytest.raises(CheckpointError, match="which is made of an ONNX file alone"):
        fewbits.convert(pocket, tmp_path / "b.onnx")
    with pytest.raises(CheckpointError, match="is not split"):
        fewbits.quantize(source, tmp_path / "b.onnx", to="int4_g32_sym", split_size="1G")


def test_what_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    out = quantized(mlp(), tmp_path, "matmulnbits")
    with pytest.raises(CheckpointError, match=r"out\.onnx\S* exists already"):
        fewbits.quantize(tmp_path / "source.onnx", out, to="int4_g32_sym")
    (tmp_path / "new.onnx.data").write_bytes(b"somebody's")
    with pytest.raises(CheckpointError, match=r"new\.onnx\.data exists already"):
        fewbits.quantize(tmp_path / "source.onnx", tmp_path / "new.onnx", to="int4_g32_sym")
    with pytest.raises(CheckpointError, match="is the source itself"):
        fewbits.quantize(tmp_path / "source.onnx", tmp_path / "source.onnx", to="int4_g32_sym", force=True)


def test_no_second_rounding(tmp_path: Path) -> None:
    out = quantized(attention(), tmp_path, "matmulnbits")
    with pytest.raises(CheckpointError, match="is quantized already, in the dialect matmulnbits"):
        fewbits.quantize(out, tmp_path / "b.onnx", to="int4_g32_sym")
    with pytest.raises(CheckpointError, match="is in the dialect matmulnbits already"):
        fewbits.convert(out, tmp_path / "b.onnx")
    with pytest.raises(CheckpointError, match="is an ONNX file, which is not split"):
        fewbits.convert(out, tmp_path / "b.onnx", dialect="qdq", split_size="1M")
    with pytest.raises(CheckpointError, match="holds no quantized matrix"):
        fewbits.convert(tmp_path / "source.onnx", tmp_path / "b.onnx")


def test_a_matrix_that_only_rows_scale_is_not_moved(tmp_path: Path) -> None:
    out = quantized(mlp(), tmp_path, "qdq", "int8_row_sym")
    with pytest.raises(CheckpointError, match=r"tensor up\.weight is int8_row_sym, and MatMulNBits holds"):
        fewbits.convert(out, tmp_path / "b.onnx", dialect="matmulnbits")


def test_inspect_shows_matrices_and_what_the_graph_says(tmp_path: Path) -> None:
    out = quantized(furnished(), tmp_path, "qdq", "int8_row_sym")
    found = fewbits.inspect(out)
    kinds = {tensor.name: (tensor.format, tensor.shape) for tensor in found.tensors}
    assert kinds["up.weight"] == ("int8_row_sym", (96, 64))
    assert kinds["mid.weight"] == ("int8_row_sym", (128, 96))
    assert kinds["words"][0] == "STRING"
    assert (found.container, found.dialect) == ("ONNX", "qdq")
    assert found.metadata["input x"] == ["batch", 64]
    assert found.metadata["author"] == "somebody"
    assert fewbits.inspect(tmp_path / "source.onnx").dialect is None


def test_find_weights_says_which_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["vector", "a"], ["one"]),
        helper.make_node("MatMul", ["x", "b"], ["two"]),
        helper.make_node("Gemm", ["x", "b"], ["three"], transB=1),
        helper.make_node("Gemm", ["x", "c"], ["four"], alpha=0.5),
        helper.make_node("MatMul", ["x", "d"], ["d2"]),
        helper.make_node("MatMul", ["e", "x"], ["five"]),
    ]
    constants = {name: random(64, 64, seed=1) for name in "abcde"}
    outputs = {"one": [64], "two": [64, 64], "three": [64, 64], "four": [64, 64], "five": [64, 64], "d2": [64, 64]}
    made = model(nodes, constants, {"x": [64, 64], "vector": [64]}, outputs)
    made.graph.output.append(helper.make_tensor_value_info("d", 1, [64, 64]))
    made.graph.node.append(helper.make_node("MatMul", ["x", "good"], ["six"]))
    made.graph.initializer.append(numpy_helper.from_array(random(64, 8, seed=2), "good"))
    found, notes = find_weights(OnnxFile(saved(made, tmp_path / "a.onnx")))
    assert list(found) == ["good"]
    assert [note.split(":")[0] for note in notes] == [f"'{name}' stays as it is" for name in "abd"]
