"""ONNX Runtime runs our rounded graphs with integer kernels, and they compute what their operators say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

import onnxruntime

import fewbits
from references.onnx_graphs import attention, inputs_of, mlp, random
from references.onnx_networks import recurrent, residual

Arrays = dict[str, np.ndarray[Any, Any]]


def session(path: Path, *, plain: bool = False, optimized: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def kernels(path: Path, folder: Path) -> Counter[str]:
    """Operators of the graph as it is run."""
    session(path, optimized=folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def relative(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found.astype(float) - wanted) / np.linalg.norm(wanted))


def images(count: int) -> Arrays:
    return {"x": random(3, 8, 8, count, seed=21).transpose(3, 0, 1, 2).copy()}


@pytest.mark.parametrize("opset", [13, 17, 21, 22])
def test_a_network_runs_on_integers_alone(opset: int, tmp_path: Path) -> None:
    onnx.save(residual(opset), tmp_path / "a.onnx")
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration=images(40))
    found = kernels(tmp_path / "b.onnx", tmp_path)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearConcat"], found["QGemm"]) == (4, 1, 1, 1)
    assert found["QLinearGlobalAveragePool"] == 1
    assert {"Conv", "Gemm", "Add", "Relu", "Clip", "BatchNormalization"}.isdisjoint(found)
    given = images(7)
    plain, fast = (session(tmp_path / "b.onnx", plain=plain).run(None, given)[0] for plain in (True, False))
    original = session(tmp_path / "a.onnx").run(None, given)[0]
    assert relative(fast, plain) < 0.02, "no kernel saturates"
    assert relative(fast, original) < 0.05
    assert [each.cosine > 0.995 for each in record.graph.outputs] == [True]


@pytest.mark.parametrize("opset", [11, 12])
def test_old_versions_run_on_integers(opset: int, tmp_path: Path) -> None:
    made = residual(13)
    made.opset_import[0].version = opset
    onnx.save(made, tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration=images(40))
    found = kernels(tmp_path / "b.onnx", tmp_path)
    assert (found["QLinearConv"], found["QGemm"]) == (4, 1)
    given = images(5)
    original = session(tmp_path / "a.onnx").run(None, given)[0]
    assert relative(session(tmp_path / "b.onnx").run(None, given)[0], original) < 0.05


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile", "mse"])
def test_observers_choose_ranges(observer: str, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    x = random(48, 64, seed=5)
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration={"x": x}, observer=observer)
    ranges = {each.name: each for each in record.graph.values}
    assert record.graph.observer == observer
    seen = np.delete(x.reshape(6, 8, 64), 4, 0)  # the fifth batch is held out
    if observer in ("minmax", "percentile"):  # of 2,560 numbers 99.99% are all
        assert (ranges["x"].low, ranges["x"].high) == (float(seen.min()), float(seen.max()))
    else:
        assert ranges["x"].high - ranges["x"].low < float(seen.max() - seen.min())
    assert ranges["x"].scale == np.float32((ranges["x"].high - ranges["x"].low) / 255)


def test_products_of_two_values(tmp_path: Path) -> None:
    onnx.save(attention(), tmp_path / "a.onnx")
    x = random(20, 5, 64, seed=6)
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration={"x": x})
    assert len(record.graph.products) + len(record.graph.floats) == 6
    found = kernels(tmp_path / "b.onnx", tmp_path)
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == len(record.graph.products)
    given = inputs_of(attention())
    one, other = (session(tmp_path / name).run(None, given)[0] for name in ("a.onnx", "b.onnx"))
    assert relative(other, one) < 0.15


def test_what_costs_too_much_stays(tmp_path: Path) -> None:
    """One input is a thousand times as large as the others, which a single scale loses."""
    onnx.save(mlp(), tmp_path / "a.onnx")
    x = random(48, 64, seed=5)
    x[:, 3] = 1000.0 * np.sign(x[:, 3])
    made = onnx.load(tmp_path / "a.onnx")
    weight = next(t for t in made.graph.initializer if t.name == "up.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3] = 0.0
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "up.weight"))
    onnx.save(made, tmp_path / "a.onnx")
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration={"x": x})
    assert [each.output for each in record.graph.floats] == ["a"]
    assert record.graph.floats[0].error_alone > record.graph.tolerance
    assert record.graph.outputs[0].cosine > 0.99


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("opset", [11, 17])
def test_recurrent_layers(kind: str, opset: int, tmp_path: Path) -> None:
    made = recurrent(kind)
    if opset == 11:  # Squeeze had an attribute then
        squeeze = next(node for node in made.graph.node if node.op_type == "Squeeze")
        del squeeze.input[1:]
        squeeze.attribute.append(onnx.helper.make_attribute("axes", [1]))
        made.opset_import[0].version = 11
    onnx.save(made, tmp_path / "a.onnx")
    ids = np.random.default_rng(1).integers(0, 4200, (12, 6, 3))
    calibration = {f"ids/{n}": each for n, each in enumerate(ids)}
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "static.onnx", calibration=calibration)
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "dynamic.onnx", to="w8a8")
    original = session(tmp_path / "a.onnx").run(None, {"ids": ids[0]})[0]
    for name in ("static", "dynamic"):
        assert relative(session(tmp_path / f"{name}.onnx").run(None, {"ids": ids[0]})[0], original) < 0.05
    assert kernels(tmp_path / "dynamic.onnx", tmp_path)["DynamicQuantizeLSTM"] == (kind == "LSTM")


@pytest.mark.parametrize("made", [mlp, attention, residual])
def test_scales_at_run_time(made: Any, tmp_path: Path) -> None:
    onnx.save(made(), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="w8a8")
    given = inputs_of(made())
    one, other = (session(tmp_path / name).run(None, given)[0] for name in ("a.onnx", "b.onnx"))
    assert relative(other, one) < 0.05
    found = kernels(tmp_path / "b.onnx", tmp_path)
    assert found["ConvInteger"] == (4 if made is residual else 0)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] >= 1


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    x = random(20, 64, seed=5)
    x[7, 3] = np.nan
    with pytest.raises(fewbits.FewbitsError, match="NaN or infinite numbers in x"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration={"x": x})
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_one_large_column_is_divided_and_stays_in_whole_numbers(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    x = random(48, 64, seed=5)
    x[:, 3] *= 100.0
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", calibration={"x": x})
    divided = {each.value: each for each in record.graph.smoothed}
    assert divided["x"].products == ("a",)
    assert divided["x"].error_after < divided["x"].error_before / 4
    assert not record.graph.floats
    assert {t.planned.name for t in record.tensors} == {"up.weight", "mid.weight", "onnx::Gemm_7"}
    found = kernels(tmp_path / "b.onnx", tmp_path)
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] + found["QGemm"] == 3
    assert record.graph.outputs[0].cosine > 0.995
    again = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "c.onnx", calibration={"x": x})
    assert again.output_sha256 == record.output_sha256, "the same twice"
