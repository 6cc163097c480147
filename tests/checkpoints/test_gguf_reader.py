"""Our GGUF reader against the gguf package's writer, which knows nothing of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.checkpoints.ggml_types import GGML_TYPES, ggml_type
from fewbits.checkpoints.gguf import GGUFReader

_INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("u", "") for bits in (8, 16, 32, 64)}


def integers(name: str) -> st.SearchStrategy[int]:
    sign, bits = _INTEGERS[name]
    return st.integers(0, 2**bits - 1) if sign else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    **{name: integers(name) for name in _INTEGERS},
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
}

VALUES = st.one_of(
    *(st.tuples(st.just(kind), values) for kind, values in SCALARS.items()),
    # The package's writer leaves out empty arrays.
    *(st.tuples(st.just(f"array:{kind}"), st.lists(values, min_size=1)) for kind, values in SCALARS.items()),
)
KEYS = st.text("abcdefghij._", min_size=1, max_size=20)


def write(path: Path, values: dict[str, tuple[str, Any]], tensors: dict[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in values.items():
        main, _, element = kind.partition(":")
        sub_type = GGUFValueType[element.upper()] if element else None
        writer.add_key_value(key, value, GGUFValueType[main.upper()], sub_type)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_metadata_comes_back(values: dict[str, tuple[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.gguf"
        write(path, values, {})
        found = GGUFReader(path).metadata
    assert set(found) == {"general.architecture", *values}
    for key, (kind, value) in values.items():
        assert found[key].type == kind
        assert found[key].value == value


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([np.float32, np.float16, np.int32])
        ),
        min_size=1,
        max_size=5,
    )
)
def test_tensors_come_back(shapes: list[tuple[list[int], Any]]) -> None:
    import tempfile

    rng = np.random.default_rng(7)
    tensors = {f"t{n}": (rng.normal(size=shape) * 99).astype(kind) for n, (shape, kind) in enumerate(shapes)}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.gguf"
        write(path, {}, tensors)
        reader = GGUFReader(path)
        assert reader.names() == list(tensors)
        for name, data in tensors.items():
            stored = reader.read(name)
            assert stored.format == {"f": "F", "i": "I"}[data.dtype.kind] + str(data.itemsize * 8)
            assert stored.shape == data.shape
            assert stored.buffer.tobytes() == data.tobytes()
        del reader, stored


def test_alignment_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    data = np.arange(3, dtype=np.float32)
    writer.add_tensor("a", data)
    writer.add_tensor("b", data + 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = GGUFReader(path)
    assert reader.alignment == 128
    assert reader.read("b").buffer.view("<f4").tolist() == [7.0, 8.0, 9.0]


def test_quantized_rows_are_whole_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    w = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    raw = gguf.quants.quantize(w, GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("a", raw, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = GGUFReader(path).read("a")
    assert (stored.format, stored.shape) == ("Q8_0", (3, 64))
    assert stored.slab(1, 3).tobytes() == raw[1:].tobytes()


@pytest.mark.parametrize("kind", GGML_QUANT_SIZES)
def test_the_table_of_types_is_the_packages(kind: GGMLQuantizationType) -> None:
    found = ggml_type(kind.value)
    assert found is not None
    assert found.name == kind.name
    # The package counts two floats in Q8_1, ggml's C code two half floats; no file holds either.
    if kind is not GGMLQuantizationType.Q8_1:
        assert (found.span, found.span_bytes) == GGML_QUANT_SIZES[kind]


def test_types_that_no_one_knows_are_none() -> None:
    assert ggml_type(4) is None
    assert ggml_type(2**31) is None
    assert len(GGML_TYPES) >= 32


def test_a_large_vocabulary_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    tokens = [f"Ġtoken{n}" for n in range(150_000)]
    values = {
        "tokenizer.ggml.tokens": ("array:string", tokens),
        "tokenizer.ggml.merges": ("array:string", tokens),
        "tokenizer.ggml.token_type": ("array:int32", [1] * 150_000),
    }
    write(path, values, {})
    best = min(timed(path) for _ in range(3))
    assert GGUFReader(path).metadata["tokenizer.ggml.tokens"].value == tokens
    # 0.2 s where it was written; ten times that means a loop that got slow, not a busy machine.
    assert best < 2.0


def timed(path: Path) -> float:
    start = time.perf_counter()
    GGUFReader(path)
    return time.perf_counter() - start
