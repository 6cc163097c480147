"""ONNX graphs that lie: one sentence each, exit code 2, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import fewbits
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.errors import CheckpointError, FewbitsError, VerificationError
from fewbits.verification.onnx_numbers import number_sources
from references.onnx_graphs import mlp, random, save_outside


def refused(made: Any, folder: Path, said: str, read: Callable[[Path], object] = OnnxFile) -> None:
    path = folder / "bad.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with pytest.raises(CheckpointError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def outside(location: str, offset: str = "0", length: str | None = None) -> Any:
    made = mlp()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    told = {"location": location, "offset": offset} | ({"length": length} if length else {})
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    return made


@pytest.mark.parametrize(
    "location", ["", "../data", "/etc/passwd", "a/../../data", "..\\data", "C:\\data", "c:data", "a\0b", ".."]
)
def test_data_elsewhere(location: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "data").write_bytes(bytes(1 << 16))
    refused(outside(location), tmp_path / "in", "which is no name of a file beside the graph")


def test_data_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").symlink_to(tmp_path / "secret")
    refused(outside("data"), tmp_path / "in", "which is linked to a file elsewhere")


def test_a_cache_that_links_graph_and_data(tmp_path: Path) -> None:
    """As huggingface_hub keeps files: both names link to files beside each other."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_outside(mlp(), tmp_path / "blobs" / "model.onnx")
    for name in ("model.onnx", "model.onnx_data"):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / f"0{name}")
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / f"0{name}")
    assert len(OnnxFile(tmp_path / "snapshot" / "model.onnx").files) == 2


@pytest.mark.parametrize(
    ("offset", "length", "said"),
    [
        ("-1", None, "says '-1' for the offset"),
        ("1e3", None, "says '1e3' for the offset"),
        ("9" * 30, None, "for the offset"),
        ("65000", None, "whose end is at byte 65536"),
        ("9" * 18, None, "whose end is at byte 65536"),
        ("0", "100", "has 100 bytes of data where its shape"),
    ],
)
def test_places_that_are_none(offset: str, length: str | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(1 << 16))
    refused(outside("data", offset, length), tmp_path, said)


def test_a_name_longer_than_any(tmp_path: Path) -> None:
    """Found by fuzzing, as are the next ones."""
    refused(outside("q" * 300), tmp_path, "which cannot be looked for")


def test_texts_that_are_none(tmp_path: Path) -> None:
    """The older protobuf hands them over as bytes, and whatever expects a text fails."""
    data = mlp().SerializeToString()
    for text in (b"up.weight", b"Relu", b"mid.bias"):
        refused(data.replace(text, b"\xf8" + text[1:]), tmp_path, "is none in UTF-8")


def test_data_that_is_not_there(tmp_path: Path) -> None:
    refused(outside("data"), tmp_path, "which is not beside the graph")


def changed(change: Callable[[Any], None]) -> Any:
    made = mlp()
    change(made)
    return made


def _dims(*dims: int) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        del made.graph.initializer[0].dims[:]
        made.graph.initializer[0].dims.extend(dims)

    return change


def _same_name(made: Any) -> None:
    made.graph.initializer[1].name = "up.weight"


def _same_result(made: Any) -> None:
    made.graph.node[1].output[0] = "a"


def _kind(made: Any) -> None:
    made.graph.initializer[0].data_type = 77


def _twice(made: Any) -> None:
    made.opset_import.add(domain="ai.onnx", version=20)


def _no_version(made: Any) -> None:
    made.opset_import[0].version = 0


def _nothing(made: Any) -> None:
    made.ClearField("graph")


def _no_data(made: Any) -> None:
    made.graph.initializer[0].ClearField("raw_data")


def _segment(made: Any) -> None:
    made.graph.initializer[0].segment.begin = 1


def _few_numbers(made: Any) -> None:
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].float_data.extend([1.0] * 6000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_dims(64, 97), "bytes of data where its shape"),
        (_dims(-1, 96), "which is none"),
        (_dims(2**40, 2**40), "which is none"),
        (_dims(2**31, 2**30), "bytes of data where its shape"),
        (_same_name, "two values of the name 'up.weight'"),
        (_same_result, "two values of the name 'a'"),
        (_kind, "has the element type 77"),
        (_twice, "states the version of one set of operators twice"),
        (_no_version, "a version of operators that is none"),
        (_nothing, "it has no graph"),
        (_no_data, "has no data"),
        (_segment, "is in segments"),
        (_few_numbers, "bytes of data where its shape|does not hold"),
    ],
)
def test_graphs_that_contradict_themselves(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    refused(changed(change), tmp_path, said)


def test_files_that_are_cut_off_anywhere(tmp_path: Path) -> None:
    data = mlp().SerializeToString()
    for size in range(0, len(data), 997):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            OnnxFile(path)


def packed(**told: Any) -> Any:
    """One MatMulNBits of 32 x 32 numbers with other attributes, and constants that fit the usual ones."""
    usual = {"K": 32, "N": 32, "bits": 4, "block_size": 16} | told
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", **usual)
    given, made = (helper.make_tensor_value_info(name, 1, ["n", 32]) for name in "xy")
    tensors = [
        numpy_helper.from_array(np.zeros((32, 2, 8), np.uint8), "q"),
        numpy_helper.from_array(random(32, 2, seed=1), "s"),
    ]
    graph = helper.make_graph([node], "g", [given], [made], tensors)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


@pytest.mark.parametrize("told", [{"N": 33}, {"K": 64}, {"N": -32, "K": -32}, {"N": 2**62}, {"bits": 8}, {"K": 0}])
def test_sizes_that_do_not_fit(told: dict[str, Any], tmp_path: Path) -> None:
    refused(packed(**told), tmp_path, "and its node calls for|numbers; the file is damaged", OnnxReader)


@pytest.mark.parametrize("told", [{"K": 2**62, "block_size": 2**62}, {"N": 0}, {"bits": 0}, {"K": 2**40}])
def test_the_stranger_reads_nothing_that_does_not_fit(told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(packed(**told).SerializeToString())
    with pytest.raises(VerificationError, match="cannot be read as its operator says"):
        number_sources(OnnxFile(path))


def decoded(kind: int = 22, scales: tuple[int, ...] = (2, 32), **told: Any) -> Any:
    """One DequantizeLinear of 32 x 32 codes."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], **told),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    given, made = (helper.make_tensor_value_info(name, 1, ["n", 32]) for name in "xy")
    codes = helper.make_tensor("q", kind, [32, 32], bytes(512), raw=True)
    tensors = [codes, numpy_helper.from_array(np.ones(scales, np.float32), "s")]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize(
    "made",
    [
        decoded(23, axis=0, block_size=16),
        decoded(scales=(2, 32, 1), axis=0, block_size=16),
        decoded(scales=(32, 2), axis=1, block_size=16),
        decoded(scales=(2, 16), axis=0, block_size=16),
        decoded(scales=(32,), axis=0),
    ],
)
def test_the_stranger_reads_no_scales_that_do_not_fit(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(VerificationError, match="cannot be read as its operator says"):
        number_sources(OnnxFile(path))
    assert OnnxReader(path).held == {}


@pytest.mark.parametrize("command", ["quantize", "inspect", "convert"])
def test_the_command_says_one_sentence(command: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(mlp().SerializeToString()[:3000])
    arguments = {
        "quantize": [str(path), "-o", str(tmp_path / "o.onnx"), "--to", "int4_g32_sym"],
        "inspect": [str(path)],
        "convert": [str(path), str(tmp_path / "o.onnx")],
    }
    done = subprocess.run(
        [sys.executable, "-m", "fewbits", command, *arguments[command]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "reaches beyond its message" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["bad.onnx"]


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(FewbitsError, match=r"pip install 'fewbits\[onnx\]'"):
        fewbits.inspect(tmp_path / "a.onnx")


def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    made = mlp()
    weight = np.array(random(64, 96, seed=1))
    weight[3, 4] = np.nan
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "up.weight"))
    onnx.save(made, tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match=r"up\.weight of the source holds 1 NaN"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="int4_g32_sym")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_what_other_commands_say_of_a_graph(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx")
    with pytest.raises(FewbitsError, match="which says nothing of tokens or layers"):
        fewbits.compare(tmp_path / "a.onnx", tmp_path / "a.onnx", text=Path(__file__))
    with pytest.raises(FewbitsError, match="of which no model card is made yet"):
        fewbits.quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", to="int4_g32_sym", push="a/b")
    with pytest.raises(FewbitsError):
        fewbits.explain(tensor=f"{tmp_path / 'a.onnx'}:up.weight")
