"""Every format that a graph dialect holds comes back, and planted faults in written graphs are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper, numpy_helper

import fewbits
from checkpoints.graphs_on_disk import quantized
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, get
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.errors import VerificationError
from fewbits.testing.graph_dialect_suite import check_graph_dialect, graph_matrix, held
from references.onnx_graphs import (
    attention,
    convolved,
    embedded,
    furnished,
    mlp,
    random,
)

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
