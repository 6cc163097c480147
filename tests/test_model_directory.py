"""quantize into a model directory: formats of every kind, read again by other code, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import fewbits
from fewbits import formats
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import FieldsReader, StoredMatrix
from fewbits.checkpoints.model_directory import DirectoryWriter
from fewbits.checkpoints.partial_file import PartialDirectory, partial_path
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import CheckpointError, FormatError, VerificationError
from fewbits.targets import DirectoryTarget
from fewbits.verification.matrices import Expectation, _compare_numbers, _own_numbers, _rows_of
from references.random_models import byte_level_tokenizer, save_byte_level, save_model, small_config

KINDS = ["int4_g32_sym_f16", "uint4_g64_asym_f16", "nf4_g64_dq", "fp8_e4m3_tile128", "nvfp4", "learned4_g64", "Q4_0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, gate and up of one shape; widths that are no power of two times a group of 64 scales."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer(size=400)
    save_byte_level(directory, tokenizer)
    config = small_config(
        transformers.LlamaConfig, rows=tokenizer.get_vocab_size(), hidden_size=256, intermediate_size=768
    )
    save_model(directory, config)
    return directory


def quantize(model: Path, output: Path, to: str, **options: Any) -> Any:
    return fewbits.quantize(model, output, to=to, **{"threads": 2, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_its_format_says(model: Path, tmp_path: Path, kind: str) -> None:
    record = quantize(model, tmp_path / "out", kind)

    file = FieldsReader(SafetensorsReader(tmp_path / "out" / "model.safetensors"))
    source = load_torch(model / "model.safetensors")
    assert set(file.names()) == set(source)
    name = "model.layers.1.mlp.down_proj.weight"
    stored = file.read(name)
    assert isinstance(stored, StoredMatrix)
    assert (stored.format, stored.shape) == (kind, tuple(source[name].shape))
    format, w = formats.get(kind), source[name].float()
    params = format.fit(w)
    wanted = format.fields(format.encode(w, params), params)
    for field, array in wanted.items():
        assert np.array_equal(stored.load()[field], array), field
    assert record.verified


@pytest.mark.parametrize("kind", ["nf4_g64_dq", "fp8_e4m3_tile128", "int8_tensor_sym", "learned3_row"])
def test_nothing_depends_on_threads_or_slabs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    quantize(model, tmp_path / "once", kind)
    monkeypatch.setattr("fewbits.workers.SLAB_BYTES", 40_000)
    quantize(model, tmp_path / "again", kind, threads=3)

    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("once", "again"))
    assert first == second


def test_the_safetensors_package_reads_the_fields(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out", "int4_g32_sym_f16")

    fields = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert fields[f"{name}.codes"].shape == (256, 128)
    assert fields[f"{name}.scale"].dtype == np.float16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "fewbits"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_inspect_and_compare(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and then " * 60)
    quantize(model, tmp_path / "out", "int8_row_sym")

    seen = fewbits.inspect(tmp_path / "out")
    assert {f.format for f in seen.formats} == {"int8_row_sym", "F32"}
    assert seen.parameters == fewbits.inspect(model).parameters
    found = fewbits.compare(model, tmp_path / "out", text=text, context=64, threads=1)
    assert 0.0 < found.kl_divergence_mean < 0.2, "random weights are harsh"
    assert found.bits_per_weight == seen.bits_per_weight


Change = Callable[[dict[str, Any]], dict[str, Any]]


def swapped(writer: DirectoryWriter, name: str, first_row: int, fields: Any) -> None:
    pair = ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")
    other = {pair[0]: pair[1], pair[1]: pair[0]}.get(name, name)
    WRITE(writer, other, first_row, fields)


def two_percent(writer: DirectoryWriter, name: str, first_row: int, fields: Any) -> None:
    if "scale" in fields and "layers.1.mlp.up" in name:
        fields = {**fields, "scale": (fields["scale"] * 1.02).astype(fields["scale"].dtype)}
    WRITE(writer, name, first_row, fields)


def one_bit(writer: DirectoryWriter, name: str, first_row: int, fields: Any) -> None:
    if "codes" in fields and "layers.1.mlp.up" in name:
        codes = fields["codes"].copy()
        codes[3, 3] ^= 1
        fields = {**fields, "codes": codes}
    WRITE(writer, name, first_row, fields)


WRITE = DirectoryWriter.write_fields


@pytest.mark.parametrize("fault", [swapped, two_percent, one_bit], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("kind", ["int4_g32_sym_f16", "fp4_e2m1_g32_f16"])
def test_a_planted_fault_is_found_and_nothing_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, kind: str
) -> None:
    monkeypatch.setattr(DirectoryWriter, "write_fields", fault)

    with pytest.raises(VerificationError, match="was recorded"):
        quantize(model, tmp_path / "out", kind)
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_an_output_of_fewbits_and_only_when_the_new_one_is_complete(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    quantize(model, output, "int8_row_sym")
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        quantize(model, output, "nf4_g64")
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryWriter, "write_fields", one_bit)
        with pytest.raises(VerificationError):
            quantize(model, output, "nf4_g64", force=True)
    assert (output / "model.safetensors").read_bytes() == before

    quantize(model, output, "nf4_g64", force=True)
    assert (output / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.card.json"]


def test_what_a_killed_run_left_is_replaced(model: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / "model-00001-of-00009.safetensors").write_bytes(b"of a run with --split-size")

    quantize(model, tmp_path / "out", "int8_row_sym")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.card.json"]
    assert [p.name for p in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


def test_a_second_run_leaves_the_first_ones_directory_alone(model: Path, tmp_path: Path) -> None:
    first = PartialDirectory(partial_path(tmp_path / "out"), tmp_path / "out")
    (first.path / "model.safetensors").write_bytes(b"half")

    with pytest.raises(CheckpointError, match="out is being written by another run"):
        quantize(model, tmp_path / "out", "int8_row_sym")

    assert (first.path / "model.safetensors").read_bytes() == b"half"
    first.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_source_makes_no_directory(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "f16.gguf", "F16")

    with pytest.raises(CheckpointError, match="no model directory"):
        quantize(tmp_path / "f16.gguf", tmp_path / "out", "int8_row_sym")


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_what_readers_put_together_shares_a_divisor(method: str, model: Path, tmp_path: Path) -> None:
    """vLLM multiplies queries, keys and values at once, and takes the largest divisor for all of them."""
    asked: dict[str, Any] = {} if method == "nearest" else {"calibration": "docs/glossary.md", "windows": 1}
    quantize(model, tmp_path / "out", "nvfp4", method=method, dialect="compressed-tensors", **asked)

    file = load_torch(tmp_path / "out" / "model.safetensors")
    found = {
        name.split(".")[-2]: float(array) for name, array in file.items() if ".1." in name and "global_scale" in name
    }
    assert len(found) == 7
    assert found["q_proj"] == found["k_proj"] == found["v_proj"] != found["o_proj"]
    assert found["gate_proj"] == found["up_proj"] != found["down_proj"]


def edited(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON header and keep the tensors' bytes."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def stating(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        stated = json.loads(header["__metadata__"]["fewbits"])
        stated["tensors"]["model.layers.0.mlp.up_proj.weight"].update(changes)
        header["__metadata__"]["fewbits"] = json.dumps(stated)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stating(format="int4_g33_sym"), "int4_g33_sym stores spans of 33 columns"),
        (stating(format="int4_gg_sym"), "unknown format 'int4_gg_sym'"),
        (stating(format="nf4_g32"), "should be"),
        (stating(shape=[768, 10**12]), "should be"),
        (stating(shape=[-1, 256]), "states no format and shape"),
        (stating(format=7), "states no format and shape"),
        (lambda header: header["__metadata__"].update(fewbits="{"), "metadata"),
        (lambda header: header["__metadata__"].update(fewbits='{"version": 2}'), "version 2 of the fewbits dialect"),
    ],
)
def test_a_damaged_statement_is_one_sentence(
    model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    quantize(model, tmp_path / "out", "int4_g32_sym_f16")
    file = tmp_path / "out" / "model.safetensors"
    edited(file, change)

    with pytest.raises(CheckpointError, match=message) as caught:
        fewbits.inspect(file)
    assert "\n" not in str(caught.value)


def test_a_code_of_nan_comes_back_as_nan(model: Path, tmp_path: Path) -> None:
    """What a file holds is not hidden."""
    quantize(model, tmp_path / "out", "fp8_e4m3_row")
    file = FieldsReader(SafetensorsReader(tmp_path / "out" / "model.safetensors"))
    stored = file.read("model.layers.0.mlp.up_proj.weight")
    assert isinstance(stored, StoredMatrix)
    fields = {key: field.copy() for key, field in stored.load().items()}
    fields["codes"][0, 0] = 0x7F
    format = formats.get("fp8_e4m3_row")
    numbers = format.decode(*format.from_fields(fields, (768, 256)))
    assert torch.isnan(numbers[0, 0])
    assert int(torch.isnan(numbers).sum()) == 1


def test_a_byte_of_codes_that_no_codes_make_is_refused(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out", "ternary_g128_f16")
    file = FieldsReader(SafetensorsReader(tmp_path / "out" / "model.safetensors"))
    stored = file.read("model.layers.0.mlp.up_proj.weight")
    assert isinstance(stored, StoredMatrix)
    fields = {key: field.copy() for key, field in stored.load().items()}
    fields["codes"][2, 5] = 243
    with pytest.raises(FormatError, match="into a byte up to 242 and was given 243"):
        formats.get("ternary_g128_f16").from_fields(fields, (768, 256))


@pytest.mark.parametrize("kind", ["int8_row_sym", "fp8_e4m3_tile128", "nvfp4", "int8_tensor_sym"])
def test_an_element_that_is_far_off_is_beyond_the_bound(model: Path, tmp_path: Path, kind: str) -> None:
    """Whatever shares a scale: one number of the file against one of another size in the source."""
    quantize(model, tmp_path / "out", kind)
    file = FieldsReader(SafetensorsReader(tmp_path / "out" / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj.weight"
    stored, w = file.read(name), load_torch(model / "model.safetensors")[name].float().numpy()
    assert isinstance(stored, StoredMatrix)
    for far_off in (False, True):
        if far_off:
            row = int(np.abs(w).max(1).argmax())
            w[row, np.abs(w[row]).argmax()] *= -1.0
        source = StoredTensor(name, "F32", w.shape, w.view(np.uint8).reshape(-1))
        want = Expectation(source, None, kind, 0.0)
        read = partial(_own_numbers, stored)
        found = _compare_numbers(read, want, _rows_of(want), float(np.abs(w).max()), (0, len(w)))
        assert (found.worst > formats.get(kind).error_bound) == far_off


def test_a_tensor_that_was_left_out_is_missed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = DirectoryTarget.accept
    shorter = lambda target, source: replace(accept(target, source), placements=accept(target, source).placements[:-1])
    monkeypatch.setattr(DirectoryTarget, "accept", shorter)

    with pytest.raises(CheckpointError, match="was not planned"):
        quantize(model, tmp_path / "out", "int8_row_sym")
    assert list(tmp_path.iterdir()) == []


def test_what_the_source_has_too_much_is_said(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(model, source)
    weights = load_torch(source / "model.safetensors")
    save_torch({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, source / "model.safetensors")

    record = quantize(source, tmp_path / "out", "int8_row_sym")

    assert any("inv_freq is left out" in note for note in record.preview.notes)
