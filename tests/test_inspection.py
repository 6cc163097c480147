"""`inspect` against the containers' own libraries, and without loading anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from safetensors import safe_open

from fewbits.errors import CheckpointError
from fewbits.inspection import inspect
from references.gguf_files import write_gguf

POCKET = Path(__file__).parents[1] / "examples" / "models" / "pocket-llama"


def test_a_gguf_file_as_the_gguf_package_sees_it(tmp_path: Path) -> None:
    path = write_gguf(POCKET, tmp_path / "q8.gguf", kind="Q8_0")
    result = inspect(path)
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert (result.container, result.architecture) == ("GGUF", "llama")
    assert {t.name for t in result.tensors} == set(theirs)
    for tensor in result.tensors:
        other = theirs[tensor.name]
        assert tensor.format == other.tensor_type.name
        assert tensor.shape == tuple(int(n) for n in reversed(other.shape.tolist()))
        assert (tensor.parameters, tensor.bytes) == (int(other.n_elements), int(other.n_bytes))
    assert result.file_bytes == path.stat().st_size
    assert result.bytes < result.file_bytes


def test_totals_add_up(tmp_path: Path) -> None:
    result = inspect(write_gguf(POCKET, tmp_path / "q4.gguf", kind="Q4_0"))
    assert [total.format for total in result.formats] == ["Q4_0", "F32"]
    assert sum(total.parameters for total in result.formats) == result.parameters
    assert sum(total.bytes for total in result.formats) == result.bytes
    assert sum(total.share for total in result.formats) == pytest.approx(1)
    assert result.formats[0].bits_per_weight == 4.5
    assert result.bits_per_weight == pytest.approx(8 * result.bytes / result.parameters)


@pytest.mark.parametrize("path", [POCKET, POCKET / "model.safetensors"])
def test_safetensors_as_the_safetensors_package_sees_it(path: Path) -> None:
    result = inspect(path)
    assert result.container == "safetensors"
    assert result.architecture == ("LlamaForCausalLM" if path.is_dir() else None)
    with safe_open(POCKET / "model.safetensors", framework="numpy") as theirs:
        assert {t.name for t in result.tensors} == set(theirs.keys())
        for tensor in result.tensors:
            view = theirs.get_slice(tensor.name)
            assert (tensor.shape, tensor.format) == (tuple(view.get_shape()), view.get_dtype())
    assert result.file_bytes == (POCKET / "model.safetensors").stat().st_size


def test_long_metadata_are_cut_and_json_is_plain(tmp_path: Path) -> None:
    result = inspect(write_gguf(POCKET, tmp_path / "f16.gguf"))
    assert result.metadata["tokenizer.ggml.tokens"][-1] == "... 4096 elements"
    assert len(result.metadata["tokenizer.ggml.tokens"]) == 13
    data = result.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, fewbits; fewbits.inspect(sys.argv[1]); "
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(POCKET)], check=True)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="neither a GGUF nor a safetensors nor an ONNX file"):
        inspect(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds neither"):
        inspect(tmp_path)
