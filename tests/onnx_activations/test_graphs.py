"""Graphs whose products run on whole numbers: what is planned, written, verified, and refused. No runtime is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import fewbits
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.errors import FewbitsError, VerificationError
from fewbits.onnx_activations.folding import fold_normalizations
from fewbits.onnx_activations.graph import Facts, Graph
from fewbits.onnx_activations.numbers import encode_bias, encode_weight, pair_floor, scale_floor
from fewbits.onnx_activations.observing import Steps
from fewbits.onnx_activations.plan import Plan, make_plan
from fewbits.onnx_activations.runtime import materialized
from fewbits.onnx_activations.sensitivity import worst_of
from fewbits.onnx_activations.static import encode_weights, insert
from fewbits.verification.onnx_activations import Stated, verify_graph
from fewbits.workers import Workers
from references.onnx_graphs import attention, branches, inputs_of, mlp, model, random, save_outside
from references.onnx_networks import recurrent, replaced, residual

Arrays = dict[str, np.ndarray[Any, Any]]


def saved(made: Any, path: Path) -> Path:
    onnx.save(made, path)
    return path


def evaluate(made: Any, given: Arrays, names: list[str] | None = None) -> list[np.ndarray[Any, Any]]:
    """By the onnx package's own evaluator: slow, and nothing of ours."""
    found: list[np.ndarray[Any, Any]] = ReferenceEvaluator(made).run(names, given)  # type: ignore[assignment]
    return found


def relative(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found.astype(float) - wanted) / np.linalg.norm(wanted))


class Static:
    """A graph whose ranges the onnx package's evaluator measured."""

    def __init__(self, made: Any, folder: Path, kept: Mapping[str, str] | None = None) -> None:
        self.source = saved(made, folder / "source.onnx")
        self.file = OnnxFile(self.source)
        self.graph = Graph.of(self.file)
        self.folded = fold_normalizations(self.graph)
        facts = Facts.of(self.graph)
        self.plan: Plan = make_plan(facts, kept or {})
        given = {**inputs_of(made)}
        roots = self.plan.roots
        copy = onnx.load_from_string(materialized(self.graph.model, self.file, self.graph.arrays))
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in roots if name not in given)
        told = dict(zip([v.name for v in copy.graph.output], evaluate(copy, given), strict=True)) | given
        self.steps = {name: _steps(told[name]) for name in roots}
        formats = {each.weight: "int8_row_sym" for each in self.plan.products}
        weights = encode_weights(facts, self.plan, self.steps, formats)
        insert(self.graph, self.plan, self.steps, weights)
        self.written = onnx.load_from_string(materialized(self.graph.model, self.file, self.graph.arrays))

    def stated(self) -> Stated:
        ranges = {n: (self.steps[r].low, self.steps[r].high) for n, r in self.plan.values.items()}
        products = {each.output: bool(each.weight) for each in self.plan.products}
        return Stated(ranges, products, frozenset(each.node for each in self.folded))

    def verify(self, written: Any, folder: Path) -> None:
        path = saved(written, folder / "written.onnx")
        with Workers(1) as workers:
            verify_graph((path, folder / "none"), OnnxFile(self.source), self.stated(), workers, lambda *_: None)


def _steps(array: np.ndarray[Any, Any]) -> Steps:
    from fewbits.calibration import Range

    return Steps.of(Range(min(float(array.min()), 0.0), max(float(array.max()), 0.0)))


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 22])
def test_a_network_of_all_kinds_is_rounded_and_close(opset: int, tmp_path: Path) -> None:
    made = residual(opset if opset >= 15 else 13)
    if opset < 13:  # the evaluator's graphs mean the same there
        made.opset_import[0].version = opset
    static = Static(made, tmp_path)
    assert [each.node.op_type for each in static.plan.products] == ["Conv", "Conv", "Conv", "Conv", "Gemm"]
    assert len(static.folded) == 2
    kinds = {node.op_type for node in static.written.graph.node}
    assert "BatchNormalization" not in kinds
    domains = {n.domain for n in static.written.graph.node if n.op_type == "DequantizeLinear"}
    assert domains == ({"", "com.microsoft"} if opset < 13 else {""})
    static.verify(static.written, tmp_path)
    if opset >= 19:  # those of DequantizeLinear that the evaluator has
        given = inputs_of(made)
        found, wanted = evaluate(static.written, given)[0], evaluate(made, given)[0]
        assert relative(found, wanted) < 0.05
        assert relative(found, wanted) > 1e-5


def test_values_that_are_handed_on_share_a_scale(tmp_path: Path) -> None:
    static = Static(residual(), tmp_path)
    values = static.plan.values
    assert values["j"] == "i", "MaxPool"
    assert values["o"] == values["m"] == "m", "Flatten"
    assert values["l"] == "l", "Concat has a scale of its own"
    assert {"a", "d", "h"}.isdisjoint(values), "a Relu or a Clip behind takes the rounding"
    assert {"c", "f", "i", "j", "k", "l", "m", "o"} <= static.plan.routed | {"o"}
    assert "y" not in values


def test_relu_is_left_alone_where_others_see_what_is_before_it(tmp_path: Path) -> None:
    made = residual()
    made.graph.output.append(helper.make_tensor_value_info("h", 1, None))
    static = Static(made, tmp_path)
    assert "h" in static.plan.routed or "h" not in static.plan.values
    static.verify(static.written, tmp_path)


def test_a_kept_product_takes_along_what_follows_it(tmp_path: Path) -> None:
    static = Static(residual(), tmp_path, {"k": "of a test"})
    assert "l" not in static.plan.routed, "Concat sees floats"
    assert [each.output for each in static.plan.stays] == ["k"]
    static.verify(static.written, tmp_path)


@pytest.mark.parametrize("made", [mlp, attention])
def test_matrices_and_products_of_values(made: Callable[[], Any], tmp_path: Path) -> None:
    graph = made()
    static = Static(graph, tmp_path)
    static.verify(static.written, tmp_path)
    given = inputs_of(graph)
    assert relative(evaluate(static.written, given)[0], evaluate(graph, given)[0]) < 0.1


def test_graphs_inside_of_nodes_stay(tmp_path: Path) -> None:
    with pytest.raises(FewbitsError, match="no product that whole numbers can compute"):
        fewbits.quantize(saved(branches(), tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")


PLANTED: dict[str, Callable[[Any], None]] = {}


def planted(change: Callable[[Any], None]) -> Callable[[Any], None]:
    PLANTED[change.__name__] = change
    return change


def constant(made: Any, name: str) -> Any:
    return next(tensor for tensor in made.graph.initializer if tensor.name == name)


def set_constant(made: Any, name: str, change: Callable[[Any], Any]) -> None:
    tensor = constant(made, name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))


def node_of(made: Any, output: str) -> Any:
    return next(node for node in made.graph.node if output in node.output)


@planted
def scale_of_a_value(made: Any) -> None:
    set_constant(made, "x_scale", lambda a: (a * np.float32(1.02)).astype(np.float32))


@planted
def zero_of_a_value(made: Any) -> None:
    set_constant(made, "c_zero_point", lambda a: np.array(a + 1, np.uint8))


@planted
def scale_of_a_weight(made: Any) -> None:
    set_constant(made, "side_scales", lambda a: (a * np.float32(1.02)).astype(np.float32))


@planted
def a_code(made: Any) -> None:
    set_constant(
        made, "head_Q8", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 7, a ^ 16, a).astype(np.int8)
    )


@planted
def a_code_of_a_folded_filter(made: Any) -> None:
    set_constant(made, "one_folded_Q8", lambda a: np.roll(a, 1, 2))


@planted
def a_bias(made: Any) -> None:
    set_constant(made, "head.bias_Q32", lambda a: a[::-1])


@planted
def a_pad(made: Any) -> None:
    node_of(made, "e").attribute[0].ints[0] = 0


@planted
def another_input(made: Any) -> None:
    node = node_of(made, "h")
    node.input[0] = node.input[1]


@planted
def a_rounding_too_few(made: Any) -> None:
    node_of(made, "k_unrounded").input[0] = "i"


@planted
def a_node_too_many(made: Any) -> None:
    made.graph.node.append(helper.make_node("Relu", ["y"], ["yy"]))


@planted
def a_constant_too_many(made: Any) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "odd"))


@planted
def clips_elsewhere(made: Any) -> None:
    set_constant(made, "six", lambda a: np.array(5, np.float32))


@planted
def zero_points_of_weights(made: Any) -> None:
    set_constant(made, "side_zero_points", np.ones_like)


@planted
def the_version(made: Any) -> None:
    made.opset_import[0].version = 18


@pytest.mark.parametrize("name", list(PLANTED))
def test_the_stranger_sees_a_planted_fault(name: str, tmp_path: Path) -> None:
    static = Static(residual(), tmp_path)
    static.verify(static.written, tmp_path)
    PLANTED[name](static.written)
    with pytest.raises(VerificationError):
        static.verify(static.written, tmp_path)


# --- at run time ---


@pytest.mark.parametrize("opset", [11, 17, 22])
def test_scales_at_run_time(opset: int, tmp_path: Path) -> None:
    made = residual(max(opset, 15))
    if opset < 15:
        made.opset_import[0].version = opset
    record = fewbits.quantize(saved(made, tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")
    assert record.graph.way == "dynamic"
    assert len(record.graph.products) == 5
    assert sorted(record.graph.float_operators) == [
        "Add",
        "Clip",
        "Concat",
        "Flatten",
        "GlobalAveragePool",
        "MaxPool",
        "Relu",
    ]
    written = onnx.load(tmp_path / "b.onnx")
    given = inputs_of(made)
    if opset >= 15:
        assert relative(evaluate(written, given)[0], evaluate(made, given)[0]) < 0.05


@pytest.mark.parametrize("made", [mlp, attention])
def test_matrices_at_run_time(made: Callable[[], Any], tmp_path: Path) -> None:
    graph = made()
    fewbits.quantize(saved(graph, tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")
    given = inputs_of(graph)
    found = evaluate(onnx.load(tmp_path / "b.onnx"), given)[0]
    assert relative(found, evaluate(graph, given)[0]) < 0.1


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_and_vocabularies_are_stored(kind: str, tmp_path: Path) -> None:
    record = fewbits.quantize(saved(recurrent(kind), tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")
    assert {t.planned.source_name for t in record.tensors} == {"words", "w", "r", "out"}
    kinds = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert ("DynamicQuantizeLSTM" in kinds) == (kind == "LSTM")
    assert kinds.count("Reshape") == (2 if kind == "GRU" else 0)
    assert (tmp_path / "b.onnx").stat().st_size < 0.5 * (tmp_path / "a.onnx").stat().st_size


def test_a_fault_in_a_stored_vocabulary_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fewbits.onnx_activations.stored_only as room

    whole = room.encode_weight

    def faulty(array: Any, *arguments: Any) -> Any:
        made = whole(array, *arguments)
        made.codes[3] = -made.codes[3]
        return made

    monkeypatch.setattr(room, "encode_weight", faulty)
    with pytest.raises(VerificationError, match="words"):
        fewbits.quantize(saved(recurrent("GRU"), tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_the_user_keeps_a_product_in_floats(tmp_path: Path) -> None:
    record = fewbits.quantize(
        saved(mlp(), tmp_path / "a.onnx"),
        tmp_path / "b.onnx",
        to="w8a8",
        tensors={"mid*": "F32", "up*": "int8_tensor_sym"},
    )
    assert [each.why for each in record.graph.floats] == ["--tensor says so"]
    assert {t.planned.format for t in record.tensors} == {"int8_row_sym", "int8_tensor_sym"}


def test_data_that_lie_beside_the_graph(tmp_path: Path) -> None:
    save_outside(mlp(), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="w8a8")
    assert (tmp_path / "b.onnx.data").exists()
    given = inputs_of(mlp())
    assert relative(evaluate(onnx.load(tmp_path / "b.onnx"), given)[0], evaluate(mlp(), given)[0]) < 0.1
    (tmp_path / "a.onnx_data").unlink()
    with pytest.raises(FewbitsError, match=r"a\.onnx_data.*not beside the graph"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "c.onnx", to="w8a8")


# --- numbers ---


def test_no_pair_of_neighbours_saturates() -> None:
    chance = np.random.default_rng(3)
    for shape, axis in (((16, 64), 0), ((64, 16), 1), ((8, 16, 3, 3), 0), ((4, 7), 0)):
        array = chance.standard_t(2, shape).astype(np.float32)
        codes = encode_weight(array, axis, "int8_row_sym", pair_floor(array, axis)).codes
        rows = np.moveaxis(codes, axis, 0).reshape(shape[axis], -1).astype(int)
        whole = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2).sum(2)
        assert np.abs(whole).max() * 255 <= 32767
        assert np.abs(codes.astype(int)).max() > 64, "no bit is given away"


def test_a_bias_that_is_large_beside_its_weights_fits(tmp_path: Path) -> None:
    array, bias = np.full((2, 4), 1e-9, np.float32), np.array([50.0, -3.0], np.float32)
    weight = encode_weight(array, 0, "int8_row_sym", scale_floor(bias, 0.01))
    codes, scale = encode_bias(bias, weight.scale, 0.01)
    assert np.allclose(codes * scale.astype(float), bias, rtol=1e-6)
    made = residual()
    static = Static(replaced(made, "head", lambda a: a * 1e-12), tmp_path)
    static.verify(static.written, tmp_path)


def test_worst_products_are_the_fewest() -> None:
    errors = {"a": 0.004, "b": 0.2, "c": 0.003, "d": 0.006}
    assert worst_of(errors, 0.01) == {"b": 0.2, "d": 0.006}
    assert worst_of(errors, 1.0) == {}


def test_alpha_and_vectors_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["p"], alpha=0.5),
        helper.make_node("MatMul", ["a", "p"], ["q"]),
        helper.make_node("MatMul", ["q", "b"], ["y"]),
    ]
    made = model(nodes, {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}, {"x": [8, 8]}, {"y": [8, 8]})
    record = fewbits.quantize(saved(made, tmp_path / "a.onnx"), tmp_path / "b.onnx", to="w8a8")
    assert {each.output: each.why for each in record.graph.floats} == {
        "p": "it has alpha, beta or transA, or its factors are one value",
        "q": "its matrix is the first factor",
    }
