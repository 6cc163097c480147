"""A model directory in several files: the same tensors behind an index, verified together, replaced together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.model_directory import DirectoryWriter
from fewbits.checkpoints.safetensors import open_directory
from fewbits.errors import CheckpointError, VerificationError
from fewbits.hub.output import finished

LARGEST = 700_000
RECIPES = {"fewbits": "nf4_g64_dq", "gptq": "int4_g32_sym_f16", "compressed-tensors": "int8_row_sym", "mlx": "Q4_0"}


def weights_of(folder: Path) -> list[Path]:
    """The weights files of a directory, by name."""
    return sorted(folder.glob("*.safetensors"))


def fields_of(folder: Path) -> dict[str, Any]:
    """Every tensor's fields."""
    reader = open_quantized(folder)
    assert reader is not None
    stored = {name: reader.read(name) for name in reader.names()}
    return {n: s.load() if isinstance(s, StoredMatrix) else {"data": s.buffer} for n, s in stored.items()}


@pytest.mark.parametrize("dialect", ["fewbits", "gptq", "compressed-tensors"])
def test_the_same_tensors_behind_an_index(dialect: str, pocket: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    asked = {"to": RECIPES[dialect], "dialect": dialect}
    fewbits.quantize(pocket, one, **asked)
    record = fewbits.quantize(pocket, several, split_size=LARGEST, **asked)

    files = weights_of(several)
    assert [file.name for file in files] == [
        f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))
    ]
    assert len(files) > 2
    assert all(f.stat().st_size <= LARGEST or len(open_directory(several)[0].names()) == 1 for f in files[1:])
    index = json.loads((several / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.bytes for t in map(*reading(several)))
    a, b = fields_of(one), fields_of(several)
    assert set(a) == set(b)
    for name, fields in a.items():
        assert all(np.array_equal(field, b[name][key]) for key, field in fields.items()), name
    whole = b"".join(file.read_bytes() for file in files)
    assert record.output_sha256 == hashlib.sha256(whole).hexdigest()
    card = json.loads(Path(record.card).read_text())
    assert card["parts_sha256"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert record.preview.bytes_out == len(whole)


def reading(folder: Path) -> tuple[Any, list[str]]:
    """How a tensor is read, and which there are."""
    reader = open_directory(folder)[0]
    return reader.read, reader.names()


def test_other_readers_follow_the_index(pocket: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "out", to="BF16", split_size="1M", dialect="compressed-tensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config.pop("quantization_config", None)  # nothing is quantized: as if it had been saved by transformers
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(pocket)

    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_inspect_compare_convert_and_push_read_it(pocket: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    for name, more in {"one": {}, "several": {"split_size": LARGEST}}.items():
        fewbits.quantize(pocket, tmp_path / name, to="int4_g32_sym_f16", tensors=["token_embd=Q8_0"], **more)  # type: ignore[arg-type]
    one, several = (fewbits.inspect(tmp_path / name) for name in ("one", "several"))
    measured = [fewbits.compare(pocket, tmp_path / n, text=text, context=64) for n in ("one", "several")]
    fewbits.convert(tmp_path / "several", tmp_path / "back.gguf")

    assert {t.name: t.format for t in one.tensors} == {t.name: t.format for t in several.tensors}
    assert measured[0].kl_divergence_mean == measured[1].kl_divergence_mean
    assert fewbits.inspect(tmp_path / "back.gguf").bits_per_weight < 6
    output = finished(tmp_path / "several")
    assert set(output.sha256) == {file.name for file in weights_of(tmp_path / "several")}


def test_one_replaces_several_and_several_one(pocket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more in ({"split_size": LARGEST}, {}, {"split_size": LARGEST}):
        fewbits.quantize(pocket, out, to="int8_row_sym", force=True, **more)  # type: ignore[arg-type]
        assert (out / "model.safetensors.index.json").exists() == bool(more)
        assert (len(weights_of(out)) > 1) == bool(more)
    assert list(tmp_path.glob(".*")) == []


def test_a_fault_in_the_last_file_is_found(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DirectoryWriter.start_flush

    def faulty(writer: DirectoryWriter) -> None:
        last = writer.partial / writer.layout.files[-1].name
        data = bytearray(last.read_bytes())
        data[len(writer.layout.files[-1].header) + 5] ^= 16
        last.write_bytes(data)
        honest(writer)

    monkeypatch.setattr(DirectoryWriter, "start_flush", faulty)
    with pytest.raises(VerificationError):
        fewbits.quantize(pocket, tmp_path / "out", to="int8_row_sym", split_size=LARGEST)
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_leads_elsewhere_is_found(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DirectoryWriter.start_flush

    def faulty(writer: DirectoryWriter) -> None:
        index = writer.partial / "model.safetensors.index.json"
        said = json.loads(index.read_text())
        said["weight_map"][next(iter(said["weight_map"]))] = writer.layout.files[-1].name
        index.write_text(json.dumps(said))
        honest(writer)

    monkeypatch.setattr(DirectoryWriter, "start_flush", faulty)
    with pytest.raises(CheckpointError, match="does not place there"):
        fewbits.quantize(pocket, tmp_path / "out", to="int8_row_sym", split_size=LARGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_model_below_the_size_is_one_file(pocket: Path, tmp_path: Path) -> None:
    record = fewbits.quantize(pocket, tmp_path / "out", to="int8_row_sym", split_size="1G")

    assert [file.name for file in weights_of(tmp_path / "out")] == ["model.safetensors"]
    assert not record.preview.parts
