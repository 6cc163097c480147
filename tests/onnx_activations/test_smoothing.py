"""Values that are divided column by column: the product stays what it was, and a single scale suits them better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.errors import VerificationError
from fewbits.onnx_activations.graph import Facts, Graph
from fewbits.onnx_activations.observing import Columns, Steps
from fewbits.onnx_activations.plan import make_plan
from fewbits.onnx_activations.runtime import materialized
from fewbits.onnx_activations.smoothing import POWERS, Smoothing, accepted, choose, factor_of, smooth, smoothable
from fewbits.onnx_activations.static import encode_weights, insert
from fewbits.verification.onnx_activations import Stated, verify_graph
from fewbits.workers import Workers
from references.onnx_graphs import attention, mlp, random, tied

Array = np.ndarray[Any, Any]


def evaluate(made: Any, x: Array) -> Array:
    found: list[Array] = ReferenceEvaluator(made).run(None, {"x": x})  # type: ignore[assignment]
    return found[0]


def inputs(rows: int = 40) -> Array:
    """One column is fifty times as large as the others."""
    x = np.random.default_rng(3).normal(size=(rows, 64)).astype(np.float32)
    x[:, 7] *= 50
    return x


def columns_of(x: Array) -> Columns:
    return Columns(x.min(0), x.max(0), x[::2])


class Divided:
    """`mlp` with its input divided before the first product, and all of its products rounded."""

    def __init__(self, folder: Path) -> None:
        self.made = mlp()
        self.source = folder / "source.onnx"
        onnx.save(self.made, self.source)
        file = OnnxFile(self.source)
        graph = Graph.of(file)
        facts, plan = Facts.of(graph), make_plan(Facts.of(graph), {})
        (products,) = smoothable(facts, plan, {"a"}).values()
        self.smoothing = choose(facts, "x", products, columns_of(inputs()))
        smooth(graph, plan, [self.smoothing])
        self.floats = onnx.load_from_string(materialized(graph.model, file, graph.arrays))
        self.plan = make_plan(Facts.of(graph), {})
        whole = onnx.ModelProto()
        whole.CopyFrom(self.floats)
        whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.plan.roots)
        values: Any = ReferenceEvaluator(whole).run(None, {"x": inputs()})
        from fewbits.calibration import Range

        told = dict(zip(self.plan.roots, values[1:], strict=True))
        ranges = {n: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for n, v in told.items()}
        self.steps = {name: Steps.of(Range(*found)) for name, found in ranges.items()}
        formats = {each.weight: "int8_row_sym" for each in self.plan.products}
        insert(graph, self.plan, self.steps, encode_weights(Facts.of(graph), self.plan, self.steps, formats))
        self.written = onnx.load_from_string(materialized(graph.model, file, graph.arrays))

    def stated(self, divided: dict[str, str] | None = None) -> Stated:
        ranges = {n: (self.steps[r].low, self.steps[r].high) for n, r in self.plan.values.items()}
        products = {each.output: True for each in self.plan.products}
        return Stated(ranges, products, frozenset(), divided={"x_smoothed": "x"} if divided is None else divided)

    def verify(self, written: Any, folder: Path, divided: dict[str, str] | None = None) -> None:
        path = folder / "written.onnx"
        onnx.save(written, path)
        with Workers(1) as workers:
            verify_graph((path, folder / "none"), OnnxFile(self.source), self.stated(divided), workers, lambda *_: None)


def test_what_is_divided_is_the_same_function(tmp_path: Path) -> None:
    divided = Divided(tmp_path)
    found, wanted = evaluate(divided.floats, inputs()), evaluate(divided.made, inputs())
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert [node.op_type for node in divided.floats.graph.node][:2] == ["Mul", "MatMul"]
    assert "up.weight" not in {each.name for each in divided.floats.graph.initializer}


def test_one_large_column_costs_less_when_it_is_divided(tmp_path: Path) -> None:
    divided = Divided(tmp_path)
    divided.verify(divided.written, tmp_path)
    wanted = evaluate(divided.made, inputs())
    plain = np.linalg.norm(rounded_once(divided.made, None) - wanted)
    assert np.linalg.norm(rounded_once(divided.made, divided.smoothing.factor) - wanted) < 0.5 * plain


def rounded_once(made: Any, factor: Array | None) -> Array:
    """The network where the input of the first product alone is rounded, written down plainly."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    x = inputs().astype(np.float64)
    by = np.ones(64) if factor is None else factor.astype(np.float64)
    low, high = min(0.0, (x / by).min()), max(0.0, (x / by).max())
    step = (high - low) / 255
    given = ((np.clip(np.round(x / by / step) + np.round(-low / step), 0, 255) - np.round(-low / step)) * step) * by
    return evaluate(copy, given.astype(np.float32))


def test_factors_are_those_of_the_equation() -> None:
    chance = np.random.default_rng(5)
    x, reach = np.exp(chance.normal(size=(30, 9))).astype(np.float32), np.exp(chance.normal(size=9))
    x[:, 4], reach[6] = 0.0, 0.0
    found = factor_of(Columns(x.min(0), x.max(0), x), reach, 0.7)
    assert (found[4], found[6]) == (1, 1), "nothing is known of them"
    told = [place for place in range(9) if place not in (4, 6)]
    exact = [float(x[:, place].max()) ** 0.7 / reach[place] ** 0.3 for place in told]
    middle = (max(exact) * min(exact)) ** 0.5
    np.testing.assert_allclose(found[told], np.array(exact) / middle, rtol=1e-6)


def test_the_power_is_the_best_of_all(tmp_path: Path) -> None:
    """By products of rounded numbers, in a slow way."""
    divided = Divided(tmp_path)
    weight = next(numpy_helper.to_array(t) for t in divided.made.graph.initializer if t.name == "up.weight")
    columns = columns_of(inputs())
    errors = {power: slow_error(columns, weight.astype(np.float64), power) for power in POWERS}
    assert divided.smoothing.power == min(errors, key=lambda power: errors[power])
    assert max(errors.values()) > 1.5 * min(errors.values()), "the power matters here"


def slow_error(columns: Columns, weight: Array, power: float) -> float:
    by = factor_of(columns, np.abs(weight).max(1), power).astype(np.float64)
    low, high = min((columns.low / by).min(), 0), max((columns.high / by).max(), 0)
    step = (high - low) / 255
    total = 0.0
    for row in columns.rows.astype(np.float64):
        first, exact = round(low / step), row @ weight
        codes = np.array([min(max(round(v / b / step), first), first + 255) for v, b in zip(row, by, strict=True)])
        found = np.zeros(weight.shape[1])
        for place in range(weight.shape[1]):
            turned = weight[:, place] * by
            size = np.abs(turned).max() / 127
            found[place] = (codes * step) @ (np.round(turned / size) * size)
        total += ((found - exact) ** 2).sum() / (exact**2).sum()
    return total


@pytest.mark.parametrize(("made", "values"), [(attention, {"minus", "x", "mixed"}), (tied, set())])
def test_matrices_that_others_use_are_left(made: Callable[[], Any], values: set[str], tmp_path: Path) -> None:
    onnx.save(made(), tmp_path / "a.onnx")
    graph = Graph.of(OnnxFile(tmp_path / "a.onnx"))
    facts = Facts.of(graph)
    plan = make_plan(facts, {})
    found = smoothable(facts, plan, {each.output for each in plan.products})
    assert set(found) <= values
    shared = {each.weight for products in found.values() for each in products}
    assert shared.isdisjoint({"qk", "table"}), "two values multiply by one, and the other is looked up"


def test_a_name_that_is_taken_is_left(tmp_path: Path) -> None:
    made = mlp()
    made.graph.node.append(helper.make_node("Neg", ["y"], ["x_smoothed"]))
    onnx.save(made, tmp_path / "a.onnx")
    facts = Facts.of(Graph.of(OnnxFile(tmp_path / "a.onnx")))
    assert "x" not in smoothable(facts, make_plan(facts, {}), {"a"})


def test_only_what_is_cheaper_is_taken() -> None:
    one = Smoothing("x", random(4, seed=1), 0.5, ("a", "b"))
    assert accepted([one], {"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 2.5}) == [one]
    assert accepted([one], {"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 3.0}) == []
    assert one.without({"b"}).products == ("a",)


def set_constant(made: Any, name: str, change: Callable[[Array], Any]) -> None:
    tensor = next(each for each in made.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array)).astype(array.dtype), name))


def swapped_factors(made: Any) -> None:
    set_constant(made, "x_smoothed_by", lambda a: a[::-1])


def a_factor_a_little_off(made: Any) -> None:
    set_constant(made, "x_smoothed_by", lambda a: np.where(np.arange(len(a)) == 7, a * 1.02, a))


def a_negative_factor(made: Any) -> None:
    set_constant(made, "x_smoothed_by", lambda a: -a)


def a_factor_of_zero(made: Any) -> None:
    set_constant(made, "x_smoothed_by", lambda a: np.where(np.arange(len(a)) == 7, 0, a))


def no_factors(made: Any) -> None:
    next(n for n in made.graph.node if n.op_type == "QuantizeLinear").input[0] = "x"


def codes_of_another_matrix(made: Any) -> None:
    set_constant(made, "up.weight_smoothed_Q8", lambda a: np.roll(a, 1, 0))


FAULTS = (
    swapped_factors,
    a_factor_a_little_off,
    a_negative_factor,
    a_factor_of_zero,
    no_factors,
    codes_of_another_matrix,
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_the_stranger_sees_a_planted_fault(fault: Callable[[Any], None], tmp_path: Path) -> None:
    divided = Divided(tmp_path)
    fault(divided.written)
    with pytest.raises(VerificationError):
        divided.verify(divided.written, tmp_path)


def test_the_stranger_sees_what_is_nowhere_stated(tmp_path: Path) -> None:
    divided = Divided(tmp_path)
    with pytest.raises(VerificationError, match="the values that it divides are others"):
        divided.verify(divided.written, tmp_path, {})
