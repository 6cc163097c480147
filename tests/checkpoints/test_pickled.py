"""PyTorch's own weights: read only where that is allowed, bit by bit as safetensors would be, and never executed."""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fewbits
from fewbits.checkpoints.opening import open_source
from fewbits.checkpoints.pickled import PickledReader
from fewbits.checkpoints.safetensors import open_directory
from fewbits.errors import CheckpointError


@pytest.fixture
def folder(pocket: Path, tmp_path: Path) -> Path:
    """The embedded model with its weights as torch.save writes them."""
    copied = Path(shutil.copytree(pocket, tmp_path / "pickled"))
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    return copied


def test_only_where_it_is_allowed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        fewbits.quantize(folder, tmp_path / "o.gguf")
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        open_directory(folder)


@pytest.mark.parametrize("output", ["o.gguf", "o"])
def test_the_same_output_as_from_safetensors(output: str, folder: Path, pocket: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    name = "pocket-llama"
    folder = folder.rename(tmp_path / name)  # the name is in the metadata

    fewbits.quantize(pocket, tmp_path / "a" / output, to="Q8_0")
    record = fewbits.quantize(folder, tmp_path / "b" / output, to="Q8_0", allow_pickle=True)

    weights = "" if output == "o.gguf" else "model.safetensors"
    assert (tmp_path / "a" / output / weights).read_bytes() == (tmp_path / "b" / output / weights).read_bytes()
    assert any(key.endswith("pytorch_model.bin") for key in record.source_sha256)  # type: ignore[union-attr]
    if weights:
        assert sorted(p.name for p in (tmp_path / "b" / output).iterdir()) == sorted(
            p.name for p in (tmp_path / "a" / output).iterdir()
        )


def test_shards(folder: Path, pocket: Path) -> None:
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[:9], "pytorch_model-2.bin": names[9:]}
    for file, own in parts.items():
        torch.save({name: tensors[name] for name in own}, folder / file)
    (folder / "pytorch_model.bin").unlink()
    index = {name: file for file, own in parts.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {index}}}'.replace("'", '"'))

    conversion = open_source(str(folder), pickles=True)

    assert {p.source.name for p in conversion.placements} == set(load_file(pocket / "model.safetensors"))
    assert {f.name for f in conversion.files} >= {*parts, "pytorch_model.bin.index.json"}


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "f32": whole,
        "turned": whole.T,
        "part": whole[1:3, 2:],
        "tied": whole,
        "bf16": whole.bfloat16(),
        "i64": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }
    torch.save(tensors, tmp_path / "x.bin")

    reader = PickledReader(tmp_path / "x.bin")

    for name, tensor in tensors.items():
        found = reader.read(name)
        assert found.shape == tuple(tensor.shape)
        expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        assert np.array_equal(found.buffer, expected), name
    with pytest.raises(CheckpointError, match="no tensor called 'x'"):
        reader.read("x")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_executed(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "evil.bin"
    torch.save({"w": torch.ones(2), "evil": Evil(mark)}, file, pickle_protocol=protocol)

    with pytest.raises(CheckpointError, match="which no weights need"):
        PickledReader(file)
    assert not mark.exists()


def archive(path: Path, pickled: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        for name, data in entries.items():
            file.writestr(f"archive/data/{name}", data)
    return path


def compressed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(50_000_000))
    return path


def twice(path: Path) -> Path:
    archive(path, pickle.dumps({}, 2))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
    return path


def outside(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/../../data.pkl", pickle.dumps({}, 2))
    return path


def long_table(path: Path) -> Path:
    data = bytearray(archive(path, pickle.dumps({}, 2)).read_bytes())
    data[-10:-6] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    return path


def stretched(path: Path) -> Path:
    torch.save({"w": torch.ones(1).expand(2**40)}, path)
    return path


def sparse(path: Path) -> Path:
    torch.save({"w": torch.ones(2, 2).to_sparse()}, path)
    return path


def old(path: Path) -> Path:
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    return path


def nested(path: Path) -> Path:
    torch.save({"state": {"w": torch.ones(2)}}, path)
    return path


def listed(path: Path) -> Path:
    torch.save([torch.ones(2)], path)
    return path


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "compressed": (compressed, "compressed"),
    "twice": (twice, "twice"),
    "outside": (outside, "outside"),
    "long_table": (long_table, "table"),
    "stretched": (stretched, "fewer bytes"),
    "sparse": (sparse, "which no weights need"),
    "old": (old, "before 1.6"),
    "nested": (nested, "no plain tensor"),
    "listed": (listed, "no table of tensors"),
    "no_pickle": (lambda path: zipfile.ZipFile(path, "w").close(), "no data.pkl"),
    "empty": (lambda path: path.write_bytes(b""), "no archive"),
    "text": (lambda path: path.write_text("hello " * 100), "no archive"),
    "cut_pickle": (lambda path: archive(path, pickle.dumps({"a": 1}, 2)[:-3]), "damaged pickle"),
    "code": (lambda path: archive(path, b"cos\nsystem\n(S'true'\ntR."), "'os system'"),
    "bytes": (lambda path: archive(path, b"c__builtin__\nbytearray\n(I1099511627776\ntR."), "bytearray"),
    "number": (lambda path: archive(path, pickle.dumps(7, 2)), "no table of tensors"),
}


@pytest.mark.parametrize(("make", "saying"), ATTACKS.values(), ids=ATTACKS)
def test_attacks(make: Callable[[Path], object], saying: str, tmp_path: Path) -> None:
    make(tmp_path / "x.bin")

    with pytest.raises(CheckpointError) as caught:
        PickledReader(tmp_path / "x.bin")

    assert saying in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_older_pytorch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "x.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")

    with pytest.raises(CheckpointError, match="CVE-2025-32434"):
        PickledReader(tmp_path / "x.bin")
