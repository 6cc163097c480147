"""Damaged and hostile containers: each attack is one file, refused in one sentence, fast, and without allocating.

The files are put together byte by byte here, so that nothing but the attack is wrong with them.
"""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fewbits.checkpoints.ggml_types import ggml_type
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.opening import open_source
from fewbits.checkpoints.safetensors import SafetensorsReader, open_directory
from fewbits.errors import CheckpointError


@contextmanager
def refused(saying: str) -> Iterator[None]:
    """The code inside raises one sentence that holds `saying`, within a second of the processor and 20 MB."""
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        yield
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert saying in message
    assert "\n" not in message
    assert len(message) < 600
    assert seconds < 1
    assert peak < 20_000_000


@pytest.fixture(autouse=True, scope="module")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever reading loads is there before anything is measured: the first test of a process would pay for it."""
    path = tmp_path_factory.mktemp("first") / "model.gguf"
    path.write_bytes(gguf_bytes((ARCHITECTURE,), (tensor("a", [4, 2]),), 32))
    GGUFReader(path)
    ggml_type(4)  # an unknown number is looked up in the gguf package
    convert = path.with_name("no-model")
    convert.mkdir()
    with pytest.raises(CheckpointError):
        open_source(str(convert))


# --- safetensors ---------------------------------------------------------------------------------------------------

Header = dict[str, Any]


def entry(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_bytes(header: Header | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


GOOD = {"a": entry([2, 2], 0, 16), "b": entry([4], 16, 32)}

SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "seven_bytes": (b"1234567", "too few"),
    "truncated_data": (safetensors_bytes(GOOD, bytes(20)), "truncated"),
    "truncated_header": (safetensors_bytes(GOOD, bytes(32))[:40], "truncated"),
    "trailing_bytes": (safetensors_bytes(GOOD, bytes(40)), "after its last tensor"),
    "header_longer_than_file": (safetensors_bytes(GOOD, bytes(32), length=5000), "truncated or no safetensors"),
    "header_of_2_63_bytes": (safetensors_bytes(GOOD, bytes(32), length=2**63), "above the limit"),
    "not_json": (safetensors_bytes(b"{'a': 1}", bytes(32)), "not valid JSON"),
    "not_utf8": (safetensors_bytes(b'{"\xff": 1}', bytes(32)), "not valid JSON"),
    "json_list": (safetensors_bytes(b"[1, 2]"), "JSON object"),
    "deep_json": (safetensors_bytes(b"[" * 200_000), "nests deeper"),
    "huge_integer": (safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}"), "not valid JSON"),
    "duplicate_tensor": (
        safetensors_bytes(b'{"a":' + json.dumps(GOOD["a"]).encode() + b',"a":' + json.dumps(GOOD["b"]).encode() + b"}"),
        "'a' twice",
    ),
    "duplicate_field": (safetensors_bytes(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "'dtype' twice"),
    "no_shape": (safetensors_bytes({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), "exactly dtype"),
    "extra_field": (safetensors_bytes({"a": {**entry([1], 0, 4), "stride": 1}}, bytes(4)), "exactly dtype"),
    "entry_is_a_list": (safetensors_bytes({"a": [1]}), "exactly dtype"),
    "unknown_dtype": (safetensors_bytes({"a": entry([1], 0, 4, "F31")}, bytes(4)), "'F31'"),
    "dtype_is_a_number": (safetensors_bytes({"a": entry([1], 0, 4, 7)}, bytes(4)), "dtype 7"),  # type: ignore[arg-type]
    "negative_dimension": (safetensors_bytes({"a": entry([-2, -2], 0, 16)}, bytes(16)), "not a list of counts"),
    "fractional_dimension": (safetensors_bytes({"a": entry([2.0], 0, 8)}, bytes(8)), "not a list of counts"),
    "boolean_dimension": (safetensors_bytes({"a": entry([True], 0, 4)}, bytes(4)), "not a list of counts"),
    "million_dimensions": (safetensors_bytes({"a": entry([2**60] * 50_000, 0, 4)}, bytes(4)), "not a list of counts"),
    "shape_of_2_60": (safetensors_bytes({"a": entry([2**60], 0, 16)}, bytes(16)), "needs 46116860184273879"),
    "shape_overflowing_64_bits": (safetensors_bytes({"a": entry([2**62, 4], 0, 0)}), "more than 64 bits"),
    "empty_and_overflowing": (safetensors_bytes({"a": entry([2**62, 4, 0], 0, 0)}), "more than 64 bits"),
    "negative_offset": (safetensors_bytes({"a": entry([4], -16, 0)}, bytes(16)), "not two positions"),
    "reversed_offsets": (safetensors_bytes({"a": entry([4], 16, 0)}, bytes(16)), "span -16"),
    "three_offsets": (
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(8)),
        "not two positions",
    ),
    "overlap": (safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)), "overlaps tensor 'a'"),
    "same_bytes": (safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, bytes(16)), "overlaps"),
    "hole": (safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, bytes(36)), "leaves a hole"),
    "hole_at_start": (safetensors_bytes({"a": entry([4], 4, 20)}, bytes(20)), "leaves a hole after the header"),
    "outside": (safetensors_bytes({"a": entry([2**40], 0, 2**42)}, bytes(16)), "truncated"),
    "wrong_size": (safetensors_bytes({"a": entry([3], 0, 16)}, bytes(16)), "needs 12 bytes"),
    "name_that_floods": (safetensors_bytes({"a" * 100_000: 1}), "exactly dtype"),
    "name_that_steers": (safetensors_bytes({"\x1b[2J": 1}), "\\x1b[2J"),
    "metadata_not_text": (safetensors_bytes({"__metadata__": {"a": 1}}), "must map names to strings"),
}


@pytest.mark.parametrize(("content", "saying"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors(content: bytes, saying: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with refused(saying):
        SafetensorsReader(path)


def test_the_safetensors_without_an_attack_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(GOOD, bytes(range(32))))
    reader = SafetensorsReader(path)
    assert reader.names() == ["a", "b"]
    assert reader.read("b").buffer.tobytes() == bytes(range(16, 32))
    with refused("no tensor called 'c'"):
        reader.read("c")


def sharded(directory: Path, weight_map: Any) -> Path:
    (directory / "one.safetensors").write_bytes(safetensors_bytes({"a": entry([1], 0, 4)}, bytes(4)))
    (directory / "two.safetensors").write_bytes(safetensors_bytes({"b": entry([1], 0, 4)}, bytes(4)))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


SHARDS: dict[str, tuple[Any, str]] = {
    "missing_shard": ({"a": "one.safetensors", "b": "three.safetensors"}, "which is missing"),
    "parent_directory": ({"a": "../one.safetensors"}, "not a plain file name"),
    "absolute_path": ({"a": "/etc/passwd"}, "not a plain file name"),
    "dots": ({"a": ".."}, "not a plain file name"),
    "backslash": ({"a": "..\\one.safetensors"}, "not a plain file name"),
    "empty_name": ({"a": ""}, "not a plain file name"),
    "name_too_long": ({"a": "x" * 300}, "not a plain file name"),
    "half_a_character": ({"a": "\ud800"}, "which is missing"),
    "two_lines": ({"a": "one\n.safetensors"}, "'one\\n.safetensors'"),
    "zero_byte": ({"a": "one\0.safetensors"}, "not a plain file name"),
    "tensor_not_in_shard": (
        {"a": "one.safetensors", "c": "one.safetensors", "b": "two.safetensors"},
        "'c' in 'one.safetensors', which has none",
    ),
    "tensor_not_in_index": ({"a": "one.safetensors", "x": "two.safetensors"}, "'x' in 'two.safetensors'"),
    "swapped_shards": ({"a": "two.safetensors", "b": "one.safetensors"}, "which has none"),
    "map_is_a_list": (["a"], "no weight_map"),
    "map_to_numbers": ({"a": 1}, "no weight_map"),
    "empty_map": ({}, "no weight_map"),
}


@pytest.mark.parametrize(("weight_map", "saying"), SHARDS.values(), ids=SHARDS)
def test_shards(weight_map: Any, saying: str, tmp_path: Path) -> None:
    sharded(tmp_path, weight_map)
    with refused(saying):
        open_directory(tmp_path)


def test_a_tensor_that_the_index_forgets_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    extra = safetensors_bytes({"a": entry([1], 0, 4), "z": entry([1], 4, 8)}, bytes(8))
    (tmp_path / "one.safetensors").write_bytes(extra)
    with refused("holds tensor 'z'"):
        open_directory(tmp_path)


def test_shards_without_an_attack_are_read(tmp_path: Path) -> None:
    reader, files = open_directory(sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert reader.names() == ["a", "b"]
    assert [f.name for f in files] == ["model.safetensors.index.json", "one.safetensors", "two.safetensors"]


# --- GGUF ----------------------------------------------------------------------------------------------------------

UINT32, STRING, ARRAY, F32, Q4_K = 4, 8, 9, 0, 12


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def array(kind: int, count: int, raw: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + raw


def tensor(name: str, dims: list[int], kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_bytes(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    magic: bytes = b"GGUF",
    pad: int = 32,
) -> bytes:
    """A GGUF file; `counts` overrides the numbers of tensors and keys in the header."""
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % pad) + bytes(data)


ARCHITECTURE = key("general.architecture", STRING, text("llama"))
BIG = 2**60

GGUF: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "magic": (gguf_bytes(magic=b"GGML"), "does not begin with"),
    "magic_only": (b"GGUF", "truncated"),
    "version_1": (gguf_bytes(version=1), "version 1"),
    "version_99": (gguf_bytes(version=99), "version 99"),
    "big_endian_tensor_count": (b"GGUF" + struct.pack(">IQQ", 3, BIG, 0) + bytes(64), "more than its"),
    "big_endian_key": (b"GGUF" + struct.pack(">IQQQ", 3, 0, 1, BIG) + bytes(64), "truncated or damaged"),
    "big_endian_strings": (
        b"GGUF" + struct.pack(">IQQQ1sIIQ", 3, 0, 1, 1, b"a", ARRAY, STRING, BIG) + bytes(64),
        "truncated or damaged",
    ),
    "no_counts": (b"GGUF" + struct.pack("<I", 3), "truncated"),
    "tensor_count_2_60": (gguf_bytes(counts=(BIG, 0)), "more than its"),
    "key_count_2_60": (gguf_bytes(counts=(0, BIG)), "more than its"),
    "key_count_too_high": (gguf_bytes((ARCHITECTURE,), counts=(0, 2), data=64), "an empty name"),
    "truncated_key": (gguf_bytes((ARCHITECTURE,), pad=1)[:-3], "truncated"),
    "key_name_2_60": (gguf_bytes((text("a", BIG),), data=64), "truncated or damaged"),
    "string_longer_than_file": (gguf_bytes((key("a", STRING, text("x", 10_000)),), data=64), "needs 10000 bytes"),
    "string_2_64": (gguf_bytes((key("a", STRING, text("x", 2**64 - 1)),), data=64), "truncated or damaged"),
    "string_not_utf8": (gguf_bytes((key("a", STRING, text(b"\xff\xfe")),)), "not UTF-8"),
    "array_2_60_numbers": (gguf_bytes((key("a", ARRAY, array(UINT32, BIG)),), data=64), "more numbers"),
    "array_2_60_strings": (gguf_bytes((key("a", ARRAY, array(STRING, BIG)),), data=64), "truncated or damaged"),
    "array_string_too_long": (
        gguf_bytes((key("a", ARRAY, array(STRING, 1, text("x", BIG))),), data=64),
        "does not end",
    ),
    "array_string_not_utf8": (gguf_bytes((key("a", ARRAY, array(STRING, 1, text(b"\xff"))),)), "not UTF-8"),
    "nested_arrays": (gguf_bytes((key("a", ARRAY, array(ARRAY, 1, array(UINT32, 0))),)), "array of arrays"),
    "deeply_nested_arrays": (gguf_bytes((key("a", ARRAY, array(ARRAY, 1) * 10_000),)), "array of arrays"),
    "unknown_value_type": (gguf_bytes((key("a", 13, bytes(8)),)), "unknown type number 13"),
    "unknown_element_type": (gguf_bytes((key("a", ARRAY, array(77, 1, bytes(8))),)), "unknown type 77"),
    "bool_of_2": (gguf_bytes((key("a", 7, b"\x02"),)), "neither 0 nor 1"),
    "duplicate_key": (gguf_bytes((ARCHITECTURE, ARCHITECTURE)), "'general.architecture' twice"),
    "alignment_0": (gguf_bytes((key("general.alignment", UINT32, struct.pack("<I", 0)),)), "general.alignment = 0"),
    "alignment_24": (gguf_bytes((key("general.alignment", UINT32, struct.pack("<I", 24)),)), "general.alignment = 24"),
    "alignment_is_text": (gguf_bytes((key("general.alignment", STRING, text("32")),)), "general.alignment = '32'"),
    "duplicate_tensor": (gguf_bytes((), (tensor("a", [8]), tensor("a", [8], offset=32)), 64), "'a' twice"),
    "no_dimension": (gguf_bytes((), (tensor("a", []),), 64), "0 dimensions"),
    "five_dimensions": (gguf_bytes((), (tensor("a", [1] * 5),), 64), "5 dimensions"),
    "dimensions_2_31": (gguf_bytes((), (text("a") + struct.pack("<I", 2**31),), 64), "2147483648 dimensions"),
    "dimension_2_60": (gguf_bytes((), (tensor("a", [BIG]),), 64), "needs 4611686018427387904 bytes"),
    "product_overflows_to_0": (gguf_bytes((), (tensor("a", [2**32, 2**32, 4]),), 64), "more than 64 bits"),
    "empty_and_overflowing": (gguf_bytes((), (tensor("a", [0, 2**32, 2**32]),), 64), "more than 64 bits"),
    "unknown_type": (gguf_bytes((), (tensor("a", [8], 4),), 64), "unknown type number 4"),
    "type_2_31": (gguf_bytes((), (tensor("a", [8], 2**31),), 64), "unknown type number"),
    "columns_not_in_spans": (gguf_bytes((), (tensor("a", [100, 2], Q4_K),), 512), "no multiple of 256"),
    "offset_not_aligned": (gguf_bytes((), (tensor("a", [4], offset=4),), 64), "not aligned to 32"),
    "outside_the_file": (gguf_bytes((), (tensor("a", [8], offset=64),), 64), "has 64"),
    "offset_2_60": (gguf_bytes((), (tensor("a", [8], offset=BIG),), 64), "data part has"),
    "offset_wraps_around": (gguf_bytes((), (tensor("a", [8], offset=2**64 - 32),), 64), "data part has"),
    "truncated_data": (gguf_bytes((), (tensor("a", [16]),), 60), "truncated or damaged"),
    "overlap": (gguf_bytes((), (tensor("a", [16]), tensor("b", [8], offset=32)), 64), "overlaps tensor 'a'"),
    "key_that_floods": (gguf_bytes((key("a" * 100_000, 13, bytes(8)),)), "unknown type number 13"),
    "tensor_that_floods": (gguf_bytes((), (tensor("\x1b" * 100_000, [8], 99),), 32), "unknown type number 99"),
    "same_place": (gguf_bytes((), (tensor("a", [8]), tensor("b", [8])), 64), "overlaps"),
}


@pytest.mark.parametrize(("content", "saying"), GGUF.values(), ids=GGUF)
def test_gguf(content: bytes, saying: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with refused(saying):
        GGUFReader(path)


@pytest.mark.parametrize("version", [2, 3])
def test_the_gguf_without_an_attack_is_read(version: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensors = (tensor("a", [4, 2]), tensor("b", [256, 1], Q4_K, 32))
    path.write_bytes(gguf_bytes((ARCHITECTURE,), tensors, 32 + 144, version=version))
    reader = GGUFReader(path)
    assert reader.metadata["general.architecture"].value == "llama"
    assert [(t.format, t.shape) for t in map(reader.read, reader.names())] == [("F32", (2, 4)), ("Q4_K", (1, 256))]
    with refused("no tensor called 'c'"):
        reader.read("c")


# --- sources -------------------------------------------------------------------------------------------------------


def pickles(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_bytes((POCKET / "config.json").read_bytes())
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02")


def no_config(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").write_bytes(safetensors_bytes(GOOD, bytes(32)))


def no_weights(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_bytes((POCKET / "config.json").read_bytes())


def one_pickle(path: Path) -> None:
    path.with_suffix(".bin").write_bytes(b"\x80\x02")


def quantized(path: Path) -> None:
    path.write_bytes(gguf_bytes((ARCHITECTURE,), (tensor("a", [256, 1], Q4_K),), 160))


def part(path: Path) -> None:
    count = key("split.count", UINT32, struct.pack("<I", 3))
    path.write_bytes(gguf_bytes((ARCHITECTURE, count), (tensor("a", [8]),), 32))


POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"

SOURCES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no_such_path": (lambda path: None, "source", "does not exist"),
    "directory_without_config": (no_config, "source", "no config.json"),
    "directory_without_weights": (no_weights, "source", "neither model.safetensors nor"),
    "pickle_directory": (pickles, "source", "safe_serialization=True"),
    "pickle_file": (one_pickle, "source.bin", "safe_serialization=True"),
    "one_safetensors_file": (
        lambda path: path.with_suffix(".safetensors").write_bytes(b"x"),
        "source.safetensors",
        "give the directory",
    ),
    "text_file": (lambda path: path.write_text("hello"), "source", "no GGUF file"),
    "empty_file": (lambda path: path.write_bytes(b""), "source", "no GGUF file"),
    "quantized_gguf": (quantized, "source", "never a second rounding"),
    "part_of_a_gguf": (part, "source", "part 1 of 3, and by its name the others"),
    "gguf_without_architecture": (lambda path: path.write_bytes(gguf_bytes()), "source", "general.architecture"),
    "gguf_without_tensors": (lambda path: path.write_bytes(gguf_bytes((ARCHITECTURE,))), "source", "no tensors"),
}


@pytest.mark.parametrize(("make", "name", "saying"), SOURCES.values(), ids=SOURCES)
def test_sources(make: Callable[[Path], object], name: str, saying: str, tmp_path: Path) -> None:
    make(tmp_path / "source")
    with refused(saying):
        open_source(str(tmp_path / name))
