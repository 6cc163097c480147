"""Calibration inputs of graphs: what fits, and one sentence for each thing that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import fewbits
from fewbits.cli.main import main
from fewbits.errors import CalibrationError, FewbitsError
from fewbits.onnx_activations.samples import Wanted, read_samples
from references.onnx_graphs import mlp, random
from references.onnx_networks import residual

X = Wanted("x", np.dtype(np.float32), (None, 64))
IDS = Wanted("ids", np.dtype(np.int64), (None, None))


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def floats(count: int, *sides: int) -> np.ndarray[Any, Any]:
    return random(count, *sides, seed=count)


def test_samples_come_in_order_and_are_held_out(tmp_path: Path) -> None:
    x = floats(43, 64)
    for given in (written(tmp_path / "a.npz", x=x), {"x": x}):
        samples = read_samples(given, [X])
        batches = list(samples.batches())
        assert np.array_equal(np.concatenate([batch["x"] for _, batch in batches]), x)
        assert [held_out for held_out, _ in batches] == [False] * 4 + [True] + [False]
        assert (samples.count, samples.held_out) == (43, 8)


def test_numbered_samples_may_differ_in_length(tmp_path: Path) -> None:
    arrays = {f"ids/{n}": np.ones((1, n + 2), np.int64) for n in range(6)}
    np.savez(tmp_path / "a.npz", **arrays)
    batches = [batch["ids"].shape for _, batch in read_samples(tmp_path / "a.npz", [IDS]).batches()]
    assert batches == [(1, n + 2) for n in range(6)]


def test_a_fixed_first_side_is_a_batch() -> None:
    wanted = Wanted("x", np.dtype(np.float32), (4, 64))
    samples = read_samples({"x": floats(11, 64)}, [wanted])
    assert [len(batch["x"]) for _, batch in samples.batches()] == [4, 4]
    assert samples.held_out == 4


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another name": ({"y": floats(9, 64)}, "lacks x: the graph's inputs are x, and the arrays are y"),
    "one too many": ({"x": floats(9, 64), "z": floats(9, 1)}, "has z, which the graph does not"),
    "another shape": ({"x": floats(9, 65)}, r"in the shape \[9, 65\], and the graph's input x is \[any, 64\]"),
    "another rank": ({"x": floats(9, 64, 1)}, r"in the shape \[9, 64, 1\]"),
    "another type": ({"x": floats(9, 64).astype(np.float64)}, "has x in float64, and the graph's input x is float32"),
    "one sample": ({"x": floats(1, 64)}, "has 1 sample, and ranges of so few"),
    "none": ({"x": floats(9, 64)[:0]}, "has 0 samples"),
    "nan": ({"x": np.where(np.arange(640).reshape(10, 64) == 600, np.nan, floats(10, 64)).astype(np.float32)}, "NaN"),
    "objects": ({"x": np.array([{}, {}], object)}, "Python objects"),
    "turned": ({"x": np.asfortranarray(floats(9, 64))}, "column by column"),
    "a gap": ({"x/0": floats(1, 64), "x/2": floats(1, 64)}, "lacks x/1"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_samples_are_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, said = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(CalibrationError, match=said):
        list(read_samples(tmp_path / "bad.npz", [X]).batches())
    if name in ("nan", "objects"):
        return  # seen by the runtime, or here alone
    onnx.save(mlp(), tmp_path / "a.onnx")
    code = main(["quantize", f"{tmp_path}/a.onnx", "-o", f"{tmp_path}/b.onnx", "--calibration", f"{tmp_path}/bad.npz"])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("*b.onnx*"))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CalibrationError, match=r"is no \.npz file of"):
        read_samples(tmp_path / "a.npz", [X])
    with pytest.raises(CalibrationError, match="is not there"):
        read_samples(tmp_path / "none.npz", [X])
    whole = written(tmp_path / "b.npz", x=floats(9, 64)).read_bytes()
    for end in range(1, len(whole), 397):
        (tmp_path / "c.npz").write_bytes(whole[:end])
        with pytest.raises(FewbitsError):
            list(read_samples(tmp_path / "c.npz", [X]).batches())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "w8a8", "observer": "minmax"}, "give --calibration INPUTS.npz too"),
        ({"to": "int4_g32_sym", "calibration": {"x": floats(9, 64)}}, "leave one of them out"),
        ({"to": "w8a8", "method": "hqq"}, "--method mean nothing"),
        ({"to": "w8a8", "tensors": {"up*": "Q4_K"}}, "Q4_K is no format of a matrix that multiplies rounded values"),
        ({"to": "w8a8", "tensors": {"upp*": "F32"}}, "nothing in the graph is called 'upp*'"),
        ({"calibration": {"x": floats(9, 64)}, "observer": "extremes"}, "unknown observer"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    with pytest.raises(FewbitsError) as found:
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", **options)
    assert said in str(found.value)
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_graphs_that_are_refused(tmp_path: Path) -> None:
    old = residual()
    old.opset_import[0].version = 10
    onnx.save(old, tmp_path / "old.onnx")
    with pytest.raises(FewbitsError, match="states version 10"):
        fewbits.quantize(tmp_path / "old.onnx", tmp_path / "b.onnx", to="w8a8")
    onnx.save(mlp(), tmp_path / "a.onnx")
    fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="w8a8")
    with pytest.raises(FewbitsError, match="is quantized already"):
        fewbits.quantize(tmp_path / "b.onnx", tmp_path / "c.onnx", to="w8a8")
    with pytest.raises(FewbitsError, match=r"ends in \.onnx"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "c.gguf", to="w8a8")
    with pytest.raises(FewbitsError, match="exists already"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="w8a8")


def test_operators_of_others_stay(tmp_path: Path) -> None:
    made = mlp()
    made.graph.node[1].CopyFrom(helper.make_node("Strange", ["a"], ["b"], domain="somebody.else"))
    made.opset_import.add(domain="somebody.else", version=1)
    onnx.save(made, tmp_path / "a.onnx")
    record = fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="w8a8")
    assert record.graph.float_operators == {"somebody.else.Strange": 1}
    assert any("Strange" in note for note in record.preview.notes)


def test_the_command_line_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    given = ["quantize", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "b.onnx"), "--to", "w8a8"]
    assert main([*given, "--dry-run", "--json"]) == 0
    assert '"bytes_out"' in capsys.readouterr().out
    assert not (tmp_path / "b.onnx").exists()
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "whole numbers" in out
    assert "MatMul" in out
