"""convert: from container to container and back, bit by bit; faults of writers are seen; refusals come before work."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewbits
from fewbits.checkpoints.dialects.gptq import GPTQ
from fewbits.checkpoints.equivalents import Equivalent
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.errors import CheckpointError, FewbitsError, VerificationError
from fewbits.evaluation.model_files import open_model
from references.expert_models import write_experts

FORMATS = {
    "gptq": "int4_g32_sym_f16",
    "awq": "uint4_g64_asym_f16",
    "compressed-tensors": "uint4_g64_asym_f16",
    "bitsandbytes": "nf4_g64_dq",
    "fp8": "fp8_e4m3_tile128",
    "mlx": "int4_g64_sym_bf16",
    "hqq": "uint4_g64_asym_f16",
    "torchao": "uint4_g64_asym_f16",
}


@pytest.fixture(scope="module")
def made(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in every dialect."""
    folder = tmp_path_factory.mktemp("made")
    for dialect, to in FORMATS.items():
        fewbits.quantize(pocket, folder / dialect, to=to, dialect=dialect, threads=2)
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def convert(source: Path, output: Path, **options: Any) -> Any:
    return fewbits.convert(source, output, **{"threads": 2, **options})


def network(path: Path) -> dict[str, torch.Tensor]:
    return dict(open_model(path).load().network.named_parameters())


@pytest.mark.parametrize("dialect", FORMATS)
def test_to_our_dialect_and_back_changes_no_bit(made: Path, tmp_path: Path, dialect: str) -> None:
    record = convert(made / dialect, tmp_path / "ours")
    assert record.verified
    convert(tmp_path / "ours", tmp_path / "back", dialect=dialect)
    assert weights(tmp_path / "back") == weights(made / dialect)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (made / dialect, tmp_path / "back")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("source", "dialects"),
    [
        ("gptq", ("mlx", "compressed-tensors")),
        ("awq", ("compressed-tensors", "hqq", "torchao")),
        ("fp8", ("compressed-tensors",)),
    ],
)
def test_from_dialect_to_dialect(made: Path, tmp_path: Path, source: str, dialects: tuple[str, ...]) -> None:
    """Whoever holds the format: another packing of the same codes."""
    wanted = network(made / source)
    for dialect in dialects:
        convert(made / source, tmp_path / dialect, dialect=dialect)
        found = network(tmp_path / dialect)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
        convert(tmp_path / dialect, tmp_path / f"{dialect}-back", dialect=source)
        assert weights(tmp_path / f"{dialect}-back") == weights(made / source)


def test_the_same_in_several_files(pocket: Path, tmp_path: Path) -> None:
    """Parts of a directory and of a GGUF file: no tensor changes, and back they are one again."""
    fewbits.quantize(pocket, tmp_path / "one", to="int4_g32_sym_f16", dialect="gptq", threads=2)
    record = convert(tmp_path / "one", tmp_path / "several", dialect="torchao", split_size="700K")
    files = sorted((tmp_path / "several").glob("*.safetensors"))
    assert record.preview.parts == tuple(file.name for file in files)
    assert record.parts_sha256 == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert len(files) > 2
    convert(tmp_path / "several", tmp_path / "back", dialect="gptq")
    assert weights(tmp_path / "back") == weights(tmp_path / "one")

    record = convert(tmp_path / "several", tmp_path / "m.gguf", split_size="1M")
    parts = sorted(tmp_path.glob("m-0*.gguf"))
    assert record.preview.parts == tuple(part.name for part in parts)
    assert len(parts) > 1
    convert(tmp_path / "one", tmp_path / "whole.gguf")
    found, wanted = (open_gguf(path) for path in (parts[0], tmp_path / "whole.gguf"))
    assert all(np.array_equal(found.read(name).buffer, wanted.read(name).buffer) for name in wanted.names())
    for output, message in (("m.gguf", "exists already"), ("y", "no size of a part")):
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "one", tmp_path / output, split_size="1M" if output != "y" else "many")


@pytest.mark.parametrize(
    ("to", "kind"),
    [("int4_g32_sym_f16", "Q4_0"), ("int8_g32_sym_f16", "Q8_0"), ("mxfp4", "MXFP4"), ("uint5_g32_bias_f16", "Q5_1")],
)
def test_to_gguf_and_back(pocket: Path, tmp_path: Path, to: str, kind: str) -> None:
    """Formats that ggml has, by whatever name; rows go to llama.cpp's order and come back."""
    fewbits.quantize(pocket, tmp_path / "ours", to=to, tensors={"token_embd": "BF16"}, threads=2)
    convert(tmp_path / "ours", tmp_path / "file.gguf")
    kinds = {f.format: f.tensors for f in fewbits.inspect(tmp_path / "file.gguf").formats}
    assert kinds[kind] == 28
    wanted, found = network(tmp_path / "ours"), network(tmp_path / "file.gguf")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    convert(tmp_path / "file.gguf", tmp_path / "back", like=pocket)
    back = network(tmp_path / "back")
    assert all(torch.equal(wanted[name], back[name]) for name in wanted)
    assert {t.format for t in fewbits.inspect(tmp_path / "back").tensors if len(t.shape) == 1} == {"BF16"}


def test_a_gguf_file_becomes_a_gptq_directory(made: Path, pocket: Path, tmp_path: Path) -> None:
    convert(made / "gptq", tmp_path / "file.gguf")
    convert(tmp_path / "file.gguf", tmp_path / "back", like=pocket, dialect="gptq")
    assert weights(tmp_path / "back") == weights(made / "gptq")


def test_a_model_that_is_not_quantized_goes_to_gguf_as_it_is(pocket: Path, tmp_path: Path) -> None:
    convert(pocket, tmp_path / "file.gguf")
    fewbits.quantize(pocket, tmp_path / "other.gguf", to="BF16", threads=2)
    files = [tmp_path / name for name in ("file.gguf", "other.gguf")]
    a, b = (fewbits.inspect(file) for file in files)
    assert [(t.name, t.format, t.bytes) for t in a.tensors] == [(t.name, t.format, t.bytes) for t in b.tensors]
    assert all(torch.equal(x, y) for x, y in zip(*(network(file).values() for file in files), strict=True))


def test_experts_that_are_listed_become_one_tensor_and_come_back(tmp_path: Path) -> None:
    model = write_experts(tmp_path / "model")
    plain = {"token_embd": "BF16", "output": "BF16"}
    fewbits.quantize(model, tmp_path / "ours", to="int4_g32_sym_f16", tensors=plain, threads=2)
    convert(tmp_path / "ours", tmp_path / "file.gguf")
    convert(tmp_path / "file.gguf", tmp_path / "back", like=model)
    wanted, back = network(tmp_path / "ours"), network(tmp_path / "back")
    assert all(torch.equal(wanted[name], back[name]) for name in wanted)


def test_rounded_inputs_go_along(pocket: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "theirs", to="w8a8", threads=2)
    convert(tmp_path / "theirs", tmp_path / "ours")
    for name in ("theirs", "ours"):
        seen = fewbits.inspect(tmp_path / name)
        assert {t.activation for t in seen.tensors if t.format == "int8_row_sym"} == {"int8_token"}
    with pytest.raises(CheckpointError, match="its inputs rounded, which no GGUF type holds"):
        convert(tmp_path / "ours", tmp_path / "file.gguf")


@pytest.mark.parametrize("owner", ["dialect", "rows"])
def test_a_fault_is_seen(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    """One bit that a writer turns, on the way to a dialect or to GGUF's rows."""
    kind: Any = {"dialect": GPTQ, "rows": Equivalent}[owner]
    name = {"dialect": "pack", "rows": "to_rows"}[owner]
    honest = getattr(kind, name)

    def wrong(*arguments: Any) -> Any:
        made = honest(*arguments)
        if isinstance(made, dict):
            key = next(iter(made))
            return made | {key: turned(made[key])}
        return turned(made)

    def turned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        other = array.copy()
        other.reshape(-1).view(np.uint8)[9] ^= 64
        return other

    convert(made / "gptq", tmp_path / "ours")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(kind, name, wrong)
    options = {"dialect": {"dialect": "gptq"}, "rows": {}}[owner]
    with pytest.raises(VerificationError, match="does not hold what was meant"):
        convert(tmp_path / "ours", tmp_path / ("out.gguf" if owner == "rows" else "out"), **options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("dialect", ["fewbits", "gptq"])
def test_rows_left_in_another_order_are_seen(
    made: Path, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    """A GGUF file has the rows of queries and keys in llama.cpp's order; the verifier knows it by itself."""
    convert(made / "gptq", tmp_path / "file.gguf")
    monkeypatch.setattr("fewbits.checkpoints.gguf_source._in_place", lambda tensor, _: tensor.slab(0, tensor.rows))
    with pytest.raises(VerificationError, match=r"q_proj.*does not hold what was meant"):
        convert(tmp_path / "file.gguf", tmp_path / "back", like=pocket, dialect=dialect)
    assert not (tmp_path / "back").exists()


def test_a_dry_run_writes_nothing(made: Path, tmp_path: Path) -> None:
    preview = convert(made / "gptq", tmp_path / "out", dry_run=True)
    assert preview.bytes_out > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("gptq", "out", {"dialect": "gptq"}, "in the dialect gptq already"),
        ("gptq", "out", {"dialect": "awq"}, "4 bits with zero points"),
        ("gptq", "out", {"dialect": "gguf"}, "unknown dialect 'gguf'"),
        ("gptq", "out.gguf", {"dialect": "gptq"}, "GGUF file, which has no dialects"),
        ("bitsandbytes", "out.gguf", {}, "is nf4_g64_dq, which no GGUF type holds"),
        ("nothing", "out", {}, "does not exist"),
    ],
)
def test_refusals(made: Path, tmp_path: Path, source: str, output: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FewbitsError, match=message) as caught:
        convert(made / source, tmp_path / output, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_needs_the_directory_it_was_made_from(made: Path, pocket: Path, tmp_path: Path) -> None:
    convert(made / "gptq", tmp_path / "file.gguf")
    with pytest.raises(CheckpointError, match="--like"):
        convert(tmp_path / "file.gguf", tmp_path / "out")
    with pytest.raises(CheckpointError, match="GGUF file already"):
        convert(tmp_path / "file.gguf", tmp_path / "out.gguf")
    with pytest.raises(CheckpointError, match="no directory"):
        convert(tmp_path / "file.gguf", tmp_path / "out", like=tmp_path / "nowhere")
    other = tmp_path / "other"
    shutil.copytree(pocket, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FewbitsError):
        convert(tmp_path / "file.gguf", tmp_path / "out", like=other)
    assert not (tmp_path / "out").exists()


def test_the_source_is_not_replaced(made: Path) -> None:
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(made / "gptq", made / "gptq", force=True)
