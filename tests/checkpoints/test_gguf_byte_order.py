"""Big-endian GGUF files, as the gguf package writes and converts them, hold the numbers of little-endian ones."""

from __future__ import annotations

import builtins
import struct
from argparse import Namespace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.scripts.gguf_convert_endian import convert_byteorder

from fewbits import compare, inspect, quantize
from fewbits.checkpoints.ggml_types import GGML_TYPES
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_byte_order import _NUMBERS, SwappedTensor
from fewbits.checkpoints.imatrix import read_importance
from fewbits.errors import CheckpointError
from references.gguf_files import write_gguf
from references.stored_files import stored_bytes


@pytest.mark.parametrize("order", ["<", ">"])
def test_version_2_is_read(order: str, tmp_path: Path) -> None:
    """It differs in nothing but its number; files of 2023 have it."""
    path = tmp_path / "a.gguf"
    write(path, gguf.GGUFEndian.LITTLE if order == "<" else gguf.GGUFEndian.BIG)
    newer = GGUFReader(path)
    raw = bytearray(path.read_bytes())
    assert struct.unpack_from(f"{order}I", raw, 4) == (3,)
    struct.pack_into(f"{order}I", raw, 4, 2)
    (tmp_path / "b.gguf").write_bytes(raw)
    older = GGUFReader(tmp_path / "b.gguf")
    assert dict(older.metadata) == dict(newer.metadata)
    assert all(np.array_equal(older.read(n).slab(0, 3), newer.read(n).slab(0, 3)) for n in newer.names())


def test_version_2_is_quantized(pocket: Path, tmp_path: Path) -> None:
    source = write_gguf(pocket, tmp_path / "a.gguf")
    raw = bytearray(source.read_bytes())
    struct.pack_into("<I", raw, 4, 2)
    (tmp_path / "b.gguf").write_bytes(raw)
    for name in ("a", "b"):
        quantize(tmp_path / f"{name}.gguf", tmp_path / f"{name}-q.gguf")
    assert (tmp_path / "a-q.gguf").read_bytes() == (tmp_path / "b-q.gguf").read_bytes()


CONVERTED = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "F32", "F16", "BF16")
"""What the package's own converter knows."""


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's converter asks before it begins."""
    monkeypatch.setattr(builtins, "input", lambda _: "YES")


def turn(path: Path) -> None:
    """Make `path` big-endian, with the package's converter."""
    convert_byteorder(gguf.GGUFReader(path, "r+"), Namespace(order="big", dry_run=False))


def write(path: Path, order: gguf.GGUFEndian) -> None:
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    rng = np.random.default_rng(5)
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "uint64", "int64", "float64"):
        kind = gguf.GGUFValueType[name.upper()]
        writer.add_key_value(f"one.{name}", 77, kind)
        writer.add_key_value(f"many.{name}", [1, 2, 3], gguf.GGUFValueType.ARRAY, kind)
    writer.add_bool("one.bool", True)
    writer.add_array("many.bool", [True, False])
    writer.add_string("one.string", "Wörter")
    writer.add_array("many.string", ["Ä", "", "three"])
    for number, kind in enumerate((np.float32, np.float16, np.int32, np.float64, np.int8, np.int16, np.int64)):
        writer.add_tensor(f"t{number}", (rng.normal(size=(3, 5)) * 99).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_both_orders_say_the_same(tmp_path: Path) -> None:
    write(tmp_path / "little.gguf", gguf.GGUFEndian.LITTLE)
    write(tmp_path / "big.gguf", gguf.GGUFEndian.BIG)
    little, big = GGUFReader(tmp_path / "little.gguf"), GGUFReader(tmp_path / "big.gguf")
    assert (little.big_endian, big.big_endian) == (False, True)
    assert {key: (v.type, v.value) for key, v in big.metadata.items()} == {
        key: (v.type, v.value) for key, v in little.metadata.items()
    }
    for name in little.names():
        own, turned = little.read(name), big.read(name)
        assert (turned.format, turned.shape, turned.bytes) == (own.format, own.shape, own.bytes)
        assert np.array_equal(turned.slab(0, 3), own.slab(0, 3))
        assert np.array_equal(turned.slab(1, 2), own.slab(1, 2))


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.usefixtures("yes")
def test_types_as_the_package_converts_them(name: str, tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(6), [tmp_path / "little.gguf", tmp_path / "big.gguf"]
    kind = Kind[name]
    w = rng.normal(size=(4, 512)).astype(np.float32)
    span, size = gguf.GGML_QUANT_SIZES[kind]
    # The package encodes no K-quants: their bytes may be any.
    encodes = name not in ("Q4_K", "Q6_K", "MXFP4")
    raw = gguf.quants.quantize(w, kind) if encodes else rng.integers(0, 256, (4, 512 // span * size), np.uint8)
    for path in paths:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tensor("w", raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    turn(paths[1])
    assert name == "MXFP4" or paths[0].read_bytes()[-4096:] != paths[1].read_bytes()[-4096:]
    little, big = (GGUFReader(path).read("w") for path in paths)
    assert isinstance(big, SwappedTensor)
    assert np.array_equal(big.slab(0, 4), little.slab(0, 4))
    assert np.array_equal(big.slab(2, 3), little.slab(2, 3))


def test_every_type_is_known_or_refused(tmp_path: Path) -> None:
    """The table of numbers covers whole spans; a type that is not in it is listed, and refused when it is read."""
    for number, kind in GGML_TYPES.items():
        path = tmp_path / f"{kind.name}.gguf"
        writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
        raw_type: Any = number
        writer.add_tensor_info("w", (2, 256), np.dtype(np.float32), 512 // kind.span * kind.span_bytes, raw_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("ab") as file:
            file.write(bytes(-file.tell() % 32) + bytes(512 // kind.span * kind.span_bytes))
        tensor = GGUFReader(path).read("w")
        assert inspect(path).bytes == tensor.bytes == 512 // kind.span * kind.span_bytes
        if kind.name in _NUMBERS:
            assert tensor.slab(0, 2).shape == (2, tensor.bytes // 2)
        else:
            with pytest.raises(CheckpointError, match=f"is {kind.name} in a big-endian file"):
                tensor.slab(0, 2)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
@pytest.mark.usefixtures("yes")
def test_a_source_of_the_other_order_gives_the_same_file(kind: str, pocket: Path, tmp_path: Path) -> None:
    sources = [write_gguf(pocket, tmp_path / f"{name}.gguf", kind=kind) for name in ("little", "big")]
    turn(sources[1])
    for source in sources:
        quantize(source, tmp_path / f"{source.stem}-q.gguf")
    little, big = (tmp_path / f"{source.stem}-q.gguf" for source in sources)
    assert stored_bytes(little) == stored_bytes(big)
    assert dict(GGUFReader(little).metadata) == dict(GGUFReader(big).metadata)
    # Their vocabulary is a hundred thousand bytes of strings: nothing of it may keep the other order.
    assert little.read_bytes() == big.read_bytes()


@pytest.mark.usefixtures("yes")
def test_models_of_the_other_order_are_compared(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "q.gguf", tensors=["token_embd=Q8_0"])
    (tmp_path / "turned.gguf").write_bytes((tmp_path / "q.gguf").read_bytes())
    turn(tmp_path / "turned.gguf")
    text = tmp_path / "text.txt"
    text.write_text("Bytes the other way round are the same numbers. " * 30, encoding="utf-8")
    cost = compare(tmp_path / "q.gguf", tmp_path / "turned.gguf", text=text, context=64, max_tokens=256)
    assert cost.kl_divergence_max == 0.0


@pytest.mark.usefixtures("yes")
def test_a_rotated_model_and_an_importance_matrix_of_the_other_order(pocket: Path, tmp_path: Path) -> None:
    little = Path(__file__).parents[1] / "golden" / "pocket.imatrix.gguf"
    (tmp_path / "i.gguf").write_bytes(little.read_bytes())
    turn(tmp_path / "i.gguf")
    ours, theirs = read_importance(tmp_path / "i.gguf"), read_importance(little)
    assert set(ours.entries) == set(theirs.entries)
    for name, entry in theirs.entries.items():
        assert np.array_equal(ours.entries[name].sums, entry.sums)
    sources = [write_gguf(pocket, tmp_path / f"{name}.gguf") for name in ("a", "b")]
    turn(sources[1])
    for source in sources:
        quantize(source, tmp_path / f"{source.stem}-q.gguf", method="hadamard+nearest")
    assert stored_bytes(tmp_path / "a-q.gguf") == stored_bytes(tmp_path / "b-q.gguf")
