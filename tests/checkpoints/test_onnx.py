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
from fewbits import formats
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, get
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.checkpoints.onnx.weights import find_weights
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.errors import CheckpointError, VerificationError
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.graph_dialect_suite import check_graph_dialect, graph_matrix, held
from references.onnx_graphs import (
    GRAPHS,
    attention,
    branches,
    convolved,
    embedded,
    furnished,
    inputs_of,
    mlp,
    model,
    random,
    save_outside,
    tied,
)
from references.onnx_numbers import matrices, run

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
            node.op_type == "MatMul" and name in node.input for node in _nodes(copy.graph)
        )
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        lies = matrix if len(tensor.dims) > 2 or not turned else matrix.T
        array = np.ascontiguousarray(lies.reshape(tensor.dims).astype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy


def _nodes(graph: Any) -> list[Any]:
    inner = [each.g for node in graph.node for each in node.attribute if each.HasField("g")]
    return [*graph.node, *(node for each in inner for node in _nodes(each))]


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
    inner = {node.name: node.op_type for node in _nodes(out.graph)}
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


# --- every format that is held, and the stranger -------------------------------------------------------------------

CASES = [(name, format) for name in GRAPH_DIALECTS for format in held(get(name))]


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(("dialect", "format"), CASES)
def test_whatever_is_held_comes_back(dialect: str, format: str, transposed: bool, tmp_path: Path) -> None:
    check_graph_dialect(get(dialect), graph_matrix(format, transposed=transposed), tmp_path)


def test_each_dialect_holds_many() -> None:
    assert {name: sum(case[0] == name for case in CASES) for name in GRAPH_DIALECTS}["matmulnbits"] > 10
    assert {format for dialect, format in CASES if dialect == "matmulnbits"} < {
        format for dialect, format in CASES if dialect == "qdq"
    }


def turned_bit(made: Any) -> None:
    tensor = next(each for each in made.graph.initializer if each.name == "up.weight_Q4")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def two_scales_exchanged(made: Any) -> None:
    tensor = next(each for each in made.graph.initializer if each.name == "up.weight_scales")
    tensor.raw_data = tensor.raw_data[4:8] + tensor.raw_data[:4] + tensor.raw_data[8:]


def another_input(made: Any) -> None:
    node = next(each for each in made.graph.node if "mid.weight_Q4" in each.input or each.name == "mid")
    node.input[0] = "a"


def a_bias_less(made: Any) -> None:
    node = next(each for each in made.graph.node if "mid.bias" in each.input)
    place = list(node.input).index("mid.bias")
    node.input[place] = "held"


def another_node(made: Any) -> None:
    next(each for each in made.graph.node if each.op_type == "Relu").op_type = "Neg"


def a_node_too_many(made: Any) -> None:
    made.graph.node.append(helper.make_node("Neg", ["y"], ["more"]))


def another_constant(made: Any) -> None:
    tensor = next(each for each in made.graph.initializer if each.name == "numbers")
    tensor.raw_data = tensor.raw_data[8:] + tensor.raw_data[:8]


def a_constant_in_a_node(made: Any) -> None:
    node = next(each for each in made.graph.node if each.op_type == "Constant")
    node.attribute[0].t.raw_data = bytes(128)


def another_author(made: Any) -> None:
    made.metadata_props[0].value = "nobody"


def another_output(made: Any) -> None:
    del made.graph.output[0]


def a_lower_version(made: Any) -> None:
    made.opset_import[0].version = 20


def the_matrix_itself(made: Any) -> None:
    made.graph.initializer.append(numpy_helper.from_array(random(64, 96, seed=1), "up.weight"))


def another_stride(made: Any) -> None:
    node = next(each for each in made.graph.node if each.name == "stem")
    next(each for each in node.attribute if each.name == "pads").ints[:] = [2, 1, 0, 1]


def other_rows(made: Any) -> None:
    node = next(each for each in made.graph.node if each.name == "look")
    node.input[list(node.input).index("ids")] = "first"


def another_side(made: Any) -> None:
    node = next(each for each in made.graph.node if each.name == "look")
    next(each for each in node.attribute if each.name in ("gather_axis", "axis")).i = 1


def codes_of_another_matrix(made: Any) -> None:
    """Both have as many rows and columns here."""
    one, other = (next(t for t in made.graph.initializer if t.name == f"{name}_Q4") for name in ("v", "o"))
    one.raw_data, other.raw_data = other.raw_data, one.raw_data


FAULTS = (
    *(turned_bit, two_scales_exchanged, another_input, a_bias_less, another_node, a_node_too_many, another_constant),
    *(a_constant_in_a_node, another_author, another_output, a_lower_version, the_matrix_itself),
)


GRAPHS_OF: dict[Callable[[Any], None], Callable[[], Any]] = {
    codes_of_another_matrix: attention,
    another_stride: convolved,
    other_rows: embedded,
    another_side: embedded,
}


@pytest.mark.parametrize("dialect", GRAPH_DIALECTS)
@pytest.mark.parametrize("fault", [*FAULTS, *GRAPHS_OF])
def test_planted_faults_are_seen(
    fault: Callable[[Any], None], dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written graph is spoiled before it is read again: nothing is kept."""
    sync = OnnxWriter.start_flush

    def spoiled(writer: OnnxWriter) -> None:
        sync(writer)
        path = writer._files[0].path
        made = onnx.load(path)
        fault(made)
        path.write_bytes(made.SerializeToString())

    monkeypatch.setattr(OnnxWriter, "start_flush", spoiled)
    made = GRAPHS_OF.get(fault, furnished)()
    filters = dialect == "qdq" and fault is another_stride
    with pytest.raises(VerificationError):
        quantized(made, tmp_path, dialect, "int8_row_sym" if filters else "int4_g32_sym")
    assert [each.name for each in tmp_path.iterdir()] == ["source.onnx"]


def test_without_a_fault_the_same_way_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = OnnxWriter.start_flush

    def the_same(writer: OnnxWriter) -> None:
        sync(writer)
        path = writer._files[0].path
        path.write_bytes(onnx.load(path).SerializeToString())

    monkeypatch.setattr(OnnxWriter, "start_flush", the_same)
    quantized(furnished(), tmp_path, "qdq", "int4_g32_sym")


def test_a_failed_publication_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.checkpoints.onnx.layout.INLINE_BYTES", 1000)
    out = quantized(mlp(), tmp_path, "qdq")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == ".out.onnx.partial":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        fewbits.quantize(tmp_path / "source.onnx", out, to="int8_row_sym", dialect="qdq", force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
