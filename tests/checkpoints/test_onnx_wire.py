"""Protobuf's bytes: taken apart and put together, for any message."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from fewbits.checkpoints import limits
from fewbits.checkpoints.onnx.wire import TOKEN_BYTES, index_of, spliced, strip, token, varint
from fewbits.errors import CheckpointError
from references.onnx_graphs import GRAPHS

KIND = onnx.ModelProto.DESCRIPTOR


def there_and_back(data: bytes) -> bytes:
    """The message without its payloads, parsed and serialized, and with them again."""
    skeleton, places = strip(memoryview(data), KIND, "x")
    model = onnx.ModelProto()
    model.ParseFromString(skeleton)
    pieces = spliced(model.SerializeToString(deterministic=True), KIND, {n: size for n, (_, size) in enumerate(places)})
    payloads = [data[start : start + size] for start, size in places]
    return b"".join(payloads[piece] if isinstance(piece, int) else piece for piece in pieces)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_model_is_the_same_after_there_and_back(name: str) -> None:
    made = GRAPHS[name]()
    found = onnx.ModelProto()
    found.ParseFromString(there_and_back(made.SerializeToString()))
    # float_data becomes raw data, which is the same bytes.
    for model in (found, made):
        for tensor in model.graph.initializer:
            if tensor.name == "floats":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), "floats"))
    assert found == made


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=5), st.lists(st.text(max_size=200), max_size=3), st.integers(0, 6))
def test_any_payloads_at_any_depth(payloads: list[bytes], texts: list[str], depth: int) -> None:
    graph = helper.make_graph([], "inner", [], [])
    for number, payload in enumerate(payloads):
        graph.initializer.add(name=f"t{number}", data_type=2, dims=[len(payload)], raw_data=payload)
    for _ in range(depth):
        outer = helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], "o", [], []
        )
        outer.node[0].doc_string = "".join(texts)
        graph = outer
    made = helper.make_model(graph)
    for text in texts:
        made.metadata_props.add(key=text, value=text)
    data = made.SerializeToString(deterministic=True)
    assert there_and_back(data) == data


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_written_as_protobuf_does(number: int) -> None:
    assert onnx.OperatorSetIdProto(version=number).SerializeToString() == (b"\x10" + varint(number))


def test_nothing_in_a_file_is_taken_for_a_token() -> None:
    planted = token(0)
    made = helper.make_model(helper.make_graph([], "g", [], []))
    made.graph.initializer.add(name="a", data_type=2, dims=[TOKEN_BYTES], raw_data=planted)
    made.graph.initializer.add(name="b", data_type=2, dims=[60], raw_data=bytes(60))
    data = made.SerializeToString()
    assert there_and_back(data) == data
    assert index_of(planted) == 0
    assert index_of(planted[:-1]) is None


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


HEAD = b"\x08\x0a"
BOMBS = {
    # bytes, what is said
    "numbers": (message(7, message(5, message(7, b"\x00" * (limits.ONNX_PACKED_BYTES + 1)))), "whole numbers outside"),
    "words": (message(6, b"x" * (limits.ONNX_TEXT_BYTES + 1)), "has a text of 16777217 bytes"),
    "unknown": (message(9999, b"x" * (limits.ONNX_GRAPH_BYTES + 1)), "beside its tensors"),
    "length": (varint(7 << 3 | 2) + varint(2**62), "reaches beyond its message"),
    "endless": (b"\xff" * 40, "has no end"),
    "two graphs": (message(7, b"") * 2, "field 7 of onnx.ModelProto is there twice"),
    "two bodies": (message(7, message(5, message(9, bytes(30)) * 2)), "field 9 of onnx.TensorProto is there twice"),
    "groups": (b"\x0b\x0c", "a kind that is not in use"),
}


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = message(1, message(5, message(6, content)))
    return message(7, content)


def test_more_fields_than_any_graph_has() -> None:
    """Counted before anything is made of them; tracemalloc would take minutes over so many."""
    data = message(7, b"\x0a\x00" * (limits.ONNX_FIELDS + 1))
    with pytest.raises(CheckpointError, match="more than 524288 fields"):
        strip(memoryview(data), KIND, "x")


@pytest.mark.parametrize("name", [*BOMBS, "depth"])
def test_bombs(name: str) -> None:
    data, said = BOMBS[name] if name in BOMBS else (nested(40), "deeper than any")
    data = HEAD + data
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=said):
        strip(memoryview(data), KIND, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


def test_large_tensors_are_never_copied(tmp_path: Path) -> None:
    from fewbits.checkpoints.onnx.file import OnnxFile

    path = tmp_path / "large.onnx"
    large = numpy_helper.from_array(np.zeros(30_000_000, np.float32), "w")
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [large])).SerializeToString())
    del large
    tracemalloc.start()
    file = OnnxFile(path)
    assert file.stored(file.initializers["w"]).bytes == 120_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
