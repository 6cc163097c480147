"""Our safetensors reader against the safetensors package, which knows nothing of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fewbits.checkpoints.safetensors import SafetensorsReader, open_directory
from fewbits.errors import CheckpointError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        NAMES,
        st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(sorted(DTYPES))),
        min_size=1,
        max_size=6,
    )
)
def test_what_the_package_writes_is_read(specs: dict[str, tuple[list[int], str]]) -> None:
    rng = np.random.default_rng(3)
    tensors = {name: np.asarray(rng.normal(size=shape) * 99, DTYPES[kind]) for name, (shape, kind) in specs.items()}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
        reader = SafetensorsReader(path)
        assert set(reader.names()) == set(tensors)
        assert dict(reader.metadata) == {"format": "np"}
        for name, (shape, kind) in specs.items():
            stored = reader.read(name)
            assert (stored.format, stored.shape) == (kind, tuple(shape))
            assert stored.buffer.tobytes() == tensors[name].tobytes()
        del reader, stored


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_damage_is_an_error_of_ours_or_harmless(tail: bytes, position: int, byte: int) -> None:
    """Whatever happens to the bytes, the reader either refuses in its own words or reads tensors inside the file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float16)}
        safetensors.numpy.save_file(tensors, path)
        raw = bytearray(path.read_bytes() + tail)
        raw[position % len(raw)] = byte
        path.write_bytes(raw)
        try:
            reader = SafetensorsReader(path)
        except CheckpointError:
            return
        for name in reader.names():
            stored = reader.read(name)
            assert stored.buffer.size >= stored.elements
        del reader


def test_bfloat16_is_not_copied(tmp_path: Path) -> None:
    w = torch.randn(5, 7, dtype=torch.bfloat16)
    save_file({"w": w}, tmp_path / "model.safetensors")
    stored = SafetensorsReader(tmp_path / "model.safetensors").read("w")
    assert stored.format == "BF16"
    assert stored.buffer.base is not None
    assert not stored.buffer.flags.writeable
    assert stored.slab(2, 4).tobytes() == w[2:4].contiguous().view(torch.uint8).numpy().tobytes()


def test_shards_of_transformers_are_read(tmp_path: Path) -> None:
    import transformers

    from references.random_models import small_config

    model = transformers.AutoModelForCausalLM.from_config(small_config(transformers.LlamaConfig, rows=50))
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    reader, files = open_directory(tmp_path)
    assert len(files) > 2
    state: dict[str, Any] = model.state_dict()
    assert set(reader.names()) == set(state)
    for name, tensor in state.items():
        assert reader.read(name).buffer.tobytes() == tensor.numpy().tobytes()


def test_a_lone_file_of_another_name_is_explained(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: rename"):
        open_directory(tmp_path)
