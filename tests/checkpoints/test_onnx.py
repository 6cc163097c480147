"""ONNX both ways: graphs quantized in each dialect, read again, moved, and everything else kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import fewbits
from checkpoints.graphs_on_disk import close, floats_replaced, nodes_of, numbers, quantized, saved
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS
from fewbits.checkpoints.onnx.reader import OnnxReader
from references.onnx_graphs import (
    GRAPHS,
    attention,
    branches,
    convolved,
    embedded,
    furnished,
    inputs_of,
    mlp,
    save_outside,
    tied,
)
from references.onnx_numbers import matrices, run


@pytest.mark.parametrize("dialect", GRAPH_DIALECTS)
@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "tied"])
def test_a_graph_computes_with_the_decoded_matrices(name: str, dialect: str, tmp_path: Path) -> None:
    made = GRAPHS[name]()
    out = quantized(made, tmp_path, dialect)
    decoded = numbers(out)
    count = {"mlp": 3, "attention": 3, "branches": 1, "furnished": 3, "convolved": 1}
    count["embedded"] = 2 if dialect == "matmulnbits" else 1
    assert len(decoded) == count[name]
    given = inputs_of(made)
    found, wanted = run(onnx.load(out), given), run(floats_replaced(made, decoded), given)
    for one, other, plain in zip(found, wanted, run(made, given), strict=True):
        close(one, other)
        assert np.linalg.norm(one - plain) > 1e-3 * np.linalg.norm(plain), "nothing was rounded"


@pytest.mark.parametrize("to", ["int8_row_sym", "uint8_row_asym", "int4_row_sym", "uint8_tensor_asym"])
def test_filters_have_a_scale_per_output_or_for_all(to: str, tmp_path: Path) -> None:
    made = convolved()
    out = quantized(made, tmp_path, "qdq", to)
    decoded = numbers(out)
    assert {name: matrix.shape for name, matrix in decoded.items()} == {
        "stem": (8, 64),
        "depth": (8, 9),
        "head": (32, 128),
        "line": (2, 3),
    }
    onnx.checker.check_model(str(out), full_check=True)
    given = inputs_of(made)
    found, wanted = run(onnx.load(out), given)[0], run(floats_replaced(made, decoded), given)[0]
    close(found, wanted)
    assert np.linalg.norm(found - run(made, given)[0]) > 1e-3 * np.linalg.norm(found)


@pytest.mark.parametrize(
    ("graph", "dialect", "said"),
    [
        (convolved, "matmulnbits", "filters of Conv are held by --dialect qdq alone"),
        (convolved, "qdq", "a filter has one scale per output or for all, as int8_row_sym has"),
        (
            embedded,
            "qdq",
            "a table in qdq would be decoded whole for every row that is looked up; matmulnbits holds it",
        ),
    ],
)
def test_the_card_says_why_filters_and_tables_stay(
    graph: Callable[[], Any], dialect: str, said: str, tmp_path: Path
) -> None:
    record: Any = fewbits.quantize(
        saved(graph(), tmp_path / "a.onnx"), tmp_path / "b.onnx", to="int4_g32_sym", dialect=dialect
    )
    stayed = {each.planned.source_name for each in record.tensors if each.planned.fallback == said}
    assert stayed == ({"stem"} if graph is convolved else {"words"}), "no group divides 9 and 3 columns"


@pytest.mark.parametrize("to", ["int4_g32_sym", "uint4_g16_asym", "uint8_g32_asym", "uint2_g16_asym"])
def test_a_table_has_the_codes_of_a_product(to: str, tmp_path: Path) -> None:
    out = quantized(embedded(opset=25, ir_version=13), tmp_path, "matmulnbits", to)
    nodes = [node.op_type for node in onnx.load(out).graph.node]
    assert nodes == ["GatherBlockQuantized", "GatherBlockQuantized", "Gather", "Sum", "MatMulNBits"]
    fewbits.convert(out, tmp_path / "qdq.onnx", dialect="qdq")
    given = inputs_of(embedded())
    assert [node.op_type for node in onnx.load(tmp_path / "qdq.onnx").graph.node][2:5] == ["Gather"] * 3
    close(run(onnx.load(tmp_path / "qdq.onnx"), given)[0], run(onnx.load(out), given)[0])
    fewbits.convert(tmp_path / "qdq.onnx", tmp_path / "back.onnx", dialect="matmulnbits")
    assert all(np.array_equal(matrix, numbers(tmp_path / "back.onnx")[name]) for name, matrix in numbers(out).items())


@pytest.mark.parametrize("dialect", GRAPH_DIALECTS)
def test_a_graph_in_float16_keeps_its_type(dialect: str, tmp_path: Path) -> None:
    made = mlp(np.float16)
    out = quantized(made, tmp_path, dialect)
    assert all(stored.format.endswith("_f16") for stored in map(OnnxReader(out).read, numbers(out)))
    onnx.checker.check_model(str(out), full_check=dialect == "qdq")
    given = inputs_of(made)
    close(run(onnx.load(out), given)[0], run(floats_replaced(made, numbers(out)), given)[0], 3e-3)


@pytest.mark.parametrize("dialect", GRAPH_DIALECTS)
@pytest.mark.parametrize(
    ("to", "opset"),
    [
        *product(("int4_g32_sym", "uint4_g16_asym", "int8_g32_sym", "uint8_g32_asym"), (21,)),
        *product(("int2_g32_sym", "uint2_g16_asym", "int2_g32_sym_restricted"), (25,)),
    ],
)
def test_codes_are_read_as_the_operators_say(dialect: str, to: str, opset: int, tmp_path: Path) -> None:
    """Our reading of our file, and the slow reference's, bit by bit."""
    out = quantized(mlp(opset=opset, ir_version=13 if opset == 25 else 10), tmp_path, dialect, to)
    ours, theirs = numbers(out), matrices(onnx.load(out))
    assert len(ours) == len(theirs) == 3
    for (name, matrix), other in zip(ours.items(), theirs.values(), strict=True):
        turned = dialect == "matmulnbits" or name != "mid.weight"
        assert np.array_equal(matrix, other.T if turned else other), name
        assert len(np.unique(matrix)) > 50


@pytest.mark.parametrize(
    "to", ["int8_row_sym", "uint8_row_asym", "int8_tensor_sym", "uint4_tensor_asym", "int4_row_sym"]
)
def test_one_scale_per_output_or_for_all(to: str, tmp_path: Path) -> None:
    out = quantized(mlp(), tmp_path, "qdq", to)
    ours, theirs = numbers(out), matrices(onnx.load(out))
    for (name, matrix), other in zip(ours.items(), theirs.values(), strict=True):
        assert np.array_equal(matrix, other if name == "mid.weight" else other.T)
        assert OnnxReader(out).read(name).format == to
    onnx.checker.check_model(str(out), full_check=True)


def test_another_method_that_looks_at_weights_alone(tmp_path: Path) -> None:
    made = mlp()
    plain = numbers(quantized(made, tmp_path, "matmulnbits", "uint4_g32_asym", method="nearest"))
    other = numbers(quantized(made, tmp_path, "matmulnbits", "uint4_g32_asym", method="hqq"))
    assert any(not np.array_equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("method", ["gptq", "search", "awq", "hadamard+gptq"])
def test_methods_that_walk_are_refused(method: str, tmp_path: Path) -> None:
    source = saved(mlp(), tmp_path / "a.onnx")
    with pytest.raises(fewbits.FewbitsError, match="which an ONNX graph does not state; take --method nearest"):
        fewbits.quantize(source, tmp_path / "b.onnx", to="int4_g32_sym", method=method)
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_a_matrix_that_is_looked_up_too_stays_beside_its_codes(tmp_path: Path) -> None:
    made = tied()
    out = quantized(made, tmp_path, "matmulnbits")
    names = {tensor.name for tensor in onnx.load(out).graph.initializer}
    assert {"table", "table_Q4", "table_scales"} <= names
    given = inputs_of(made)
    weight = numbers(out)
    looked = numpy_helper.to_array(made.graph.initializer[0])[[3, 1, 2]]
    close(run(onnx.load(out), given)[0], (given["x"] + looked) @ next(iter(weight.values())).T)


def test_one_set_of_codes_serves_all_products_with_a_matrix(tmp_path: Path) -> None:
    out = onnx.load(quantized(attention(), tmp_path, "matmulnbits"))
    used = [node.input[1] for node in out.graph.node if node.op_type == "MatMulNBits"]
    assert used.count("qk_Q4") == 2
    assert len(set(used)) == 3


def test_a_branch_keeps_what_is_its_own(tmp_path: Path) -> None:
    out = onnx.load(quantized(branches(), tmp_path, "matmulnbits"))
    inner = {node.name: node.op_type for node in nodes_of(out.graph)}
    assert (inner["then"], inner["otherwise"]) == ("MatMulNBits", "MatMul")


@pytest.mark.parametrize("dialect", GRAPH_DIALECTS)
def test_everything_else_stays_as_it_was(dialect: str, tmp_path: Path) -> None:
    made = furnished()
    out = onnx.load(quantized(made, tmp_path, dialect))
    for name in ("producer_name", "producer_version", "doc_string", "model_version", "metadata_props"):
        assert getattr(out, name) == getattr(made, name), name
    for name in ("input", "output", "value_info", "doc_string", "name"):
        assert getattr(out.graph, name) == getattr(made.graph, name), name
    products = {"MatMul", "Gemm", "MatMulNBits", "DequantizeLinear"}
    kept = [node for node in made.graph.node if node.op_type not in products]
    assert [node for node in out.graph.node if node.op_type not in products and node.input[1:] != ["mid.bias"]] == [
        *kept
    ] or dialect == "matmulnbits"
    mine = {tensor.name: tensor for tensor in made.graph.initializer if "weight" not in tensor.name}
    theirs = {tensor.name: tensor for tensor in out.graph.initializer}
    for name in mine.keys() - {"onnx::Gemm_7"}:
        one, other = (numpy_helper.to_array(each[name]) for each in (mine, theirs))
        assert one.tobytes() == other.tobytes() if one.dtype != object else (one == other).all(), name
    domains = {each.domain: each.version for each in out.opset_import}
    assert domains == {"": 21, "ai.onnx.ml": 3} | ({"com.microsoft": 1} if dialect == "matmulnbits" else {})
    if dialect == "matmulnbits":
        first = out.graph.node[0]
        assert (first.doc_string, first.name) == ("about a product", "up")
        assert first.metadata_props == made.graph.node[0].metadata_props


def test_the_same_bytes_after_there_and_back(tmp_path: Path) -> None:
    a = quantized(furnished(), tmp_path, "matmulnbits", "uint4_g16_asym")
    fewbits.convert(a, tmp_path / "b.onnx", dialect="qdq")
    fewbits.convert(tmp_path / "b.onnx", tmp_path / "c.onnx", dialect="matmulnbits")
    assert a.read_bytes() == (tmp_path / "c.onnx").read_bytes() != (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    "to", ["int4_g32_sym", "uint4_g16_asym", "int8_g64_sym", "uint8_g32_asym", "int4_g16_asym", "int2_g32_sym"]
)
def test_fields_are_the_same_after_there_and_back(to: str, tmp_path: Path) -> None:
    """From QDQ, whose signed codes with zero points the other side counts from the lowest: the numbers are the same."""
    a = quantized(mlp(opset=25, ir_version=13), tmp_path, "qdq", to)
    fewbits.convert(a, tmp_path / "b.onnx", dialect="matmulnbits")
    fewbits.convert(tmp_path / "b.onnx", tmp_path / "c.onnx", dialect="qdq")
    first, second, third = (numbers(path) for path in (a, tmp_path / "b.onnx", tmp_path / "c.onnx"))
    assert set(first) == set(second) == set(third)
    for name, matrix in first.items():
        assert matrix.tobytes() == second[name].tobytes() == third[name].tobytes()
    one, other = OnnxReader(a), OnnxReader(tmp_path / "c.onnx")
    for name in first if to != "int4_g16_asym" else ():
        mine, theirs = one.read(name), other.read(name)
        assert isinstance(mine, StoredMatrix)
        assert isinstance(theirs, StoredMatrix)
        assert mine.format == theirs.format
        assert all(np.array_equal(array, theirs.load()[key]) for key, array in mine.load().items())


def test_constants_in_another_file_are_found_and_kept_so(tmp_path: Path) -> None:
    made = furnished()
    (tmp_path / "in").mkdir()
    save_outside(furnished(), tmp_path / "in" / "model.onnx")
    record = fewbits.quantize(tmp_path / "in" / "model.onnx", tmp_path / "out.onnx", to="int4_g32_sym")
    assert (tmp_path / "out.onnx.data").stat().st_size > 10000
    assert set(record.parts_sha256) == {"out.onnx", "out.onnx.data"}  # type: ignore[union-attr]
    one = quantized(made, tmp_path / "in", "matmulnbits")
    assert {n: m.tobytes() for n, m in numbers(one).items()} == {
        n: m.tobytes() for n, m in numbers(tmp_path / "out.onnx").items()
    }
    given = inputs_of(made)
    for a, b in zip(run(onnx.load(one), given), run(onnx.load(tmp_path / "out.onnx"), given), strict=True):
        assert np.array_equal(a, b)
    fewbits.convert(tmp_path / "out.onnx", tmp_path / "moved.onnx", dialect="qdq")
    assert (tmp_path / "moved.onnx.data").exists()
    assert fewbits.inspect(tmp_path / "moved.onnx").files == ("moved.onnx", "moved.onnx.data")


def test_large_graphs_get_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.checkpoints.onnx.layout.INLINE_BYTES", 1000)
    out = quantized(mlp(), tmp_path, "qdq")
    assert (tmp_path / "out.onnx.data").exists()
    onnx.checker.check_model(str(out), full_check=True)


def test_an_older_graph_says_its_constants_twice(tmp_path: Path) -> None:
    """Before version 4 every constant is an input as well; a matrix that goes is none any more."""
    made = mlp(opset=9, ir_version=3)
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    out = onnx.load(quantized(made, tmp_path, "matmulnbits"))
    assert [value.name for value in out.graph.input] == ["x", "mid.bias"]


def test_constants_that_may_be_replaced_stay(tmp_path: Path) -> None:
    made = mlp()
    made.graph.input.append(helper.make_tensor_value_info("up.weight", 1, [64, 96]))
    record = fewbits.quantize(saved(made, tmp_path / "a.onnx"), tmp_path / "b.onnx", to="int4_g32_sym")
    assert "up.weight" not in numbers(tmp_path / "b.onnx")
    assert any("'up.weight' stays as it is: it is an input too" in note for note in record.preview.notes)  # type: ignore[union-attr]


def test_typed_numbers_are_read_as_raw_ones(tmp_path: Path) -> None:
    """Constants may lie as float_data, or as int32_data where they are float16."""
    for dtype in (np.float32, np.float16):
        made = mlp(dtype)
        other = type(made)()
        other.CopyFrom(made)
        for tensor in other.graph.initializer:
            array = numpy_helper.to_array(tensor)
            values = array.reshape(-1) if dtype == np.float32 else array.reshape(-1).view(np.uint16)
            new = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            (new.float_data if dtype == np.float32 else new.int32_data).extend(values.tolist())
            tensor.CopyFrom(new)
        assert len(other.graph.initializer[0].raw_data) == 0
        first = quantized(made, tmp_path, "matmulnbits").read_bytes()
        second = numbers(quantized(other, tmp_path, "matmulnbits"))
        (tmp_path / "first.onnx").write_bytes(first)
        assert {n: m.tobytes() for n, m in numbers(tmp_path / "first.onnx").items()} == {
            n: m.tobytes() for n, m in second.items()
        }
