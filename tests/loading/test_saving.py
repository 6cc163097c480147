"""`save_pretrained` of packed networks: a whole directory that independent code has read, or nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fewbits
from fewbits.errors import FewbitsError, VerificationError
from fewbits.layers.modules import Packed
from fewbits.loading import complete, saving


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in 8 bits."""
    path = tmp_path_factory.mktemp("saved") / "model"
    fewbits.quantize(model, path, to="Q8_0", threads=1)
    return path


def files(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*")}


def test_a_directory_keeps_what_else_it_has(folder: Path, tmp_path: Path) -> None:
    network, saved = fewbits.load(folder), tmp_path / "saved"
    network.save_pretrained(saved, max_shard_size="300KB")
    assert len(list(saved.glob("*.safetensors"))) > 1
    (saved / "notes").mkdir()
    (saved / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    network.save_pretrained(saved)
    assert [each.name for each in saved.glob("*.safetensors*")] == ["model.safetensors"]
    assert (saved / "notes" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert files(tmp_path) == {"saved", *(f"saved/{each}" for each in files(saved))}, "nothing is left beside it"


def test_nothing_is_left_of_a_directory_that_was_not_completed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fewbits.load(folder)
    network.save_pretrained(tmp_path / "saved")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if (tmp_path / name).is_file()}

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(complete, "verify_saved", interrupted)
    for name in ("saved", "other"):
        with pytest.raises(KeyboardInterrupt):
            network.save_pretrained(tmp_path / name)
    assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if (tmp_path / name).is_file()}


@pytest.mark.parametrize(("to", "dialect"), [("int8", None), ("nf4", "bitsandbytes"), ("int4", "compressed-tensors")])
def test_a_planted_fault_is_seen(
    to: str, dialect: str | None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fewbits.load(model, to=fewbits.Config(to, dialect=dialect))
    really: Callable[..., dict[str, torch.Tensor]] = saving._tensors

    def faulty(matrix: Any, *arguments: Any) -> dict[str, torch.Tensor]:
        found = really(matrix, *arguments)
        if "layers.1.mlp.up_proj" in matrix.name:
            name = next(each for each, tensor in found.items() if tensor.is_floating_point())
            found[name] = found[name] * 1.02
        return found

    monkeypatch.setattr(saving, "_tensors", faulty)
    with pytest.raises(VerificationError, match=r"layers\.1\.mlp\.up_proj"):
        network.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(saving, "_tensors", really)
    network.save_pretrained(tmp_path / "saved")


def test_a_copy_saves_itself(folder: Path, tmp_path: Path) -> None:
    network = fewbits.load(folder)
    other = copy.deepcopy(network)
    module = next(each for each in other.modules() if isinstance(each, Packed))
    assert other.save_pretrained.__self__ is other
    other.save_pretrained(tmp_path / "saved")
    assert module.matrix.format in fewbits.load(tmp_path / "saved").fewbits.formats
    assert isinstance(pickle.loads(pickle.dumps(network)), type(network))  # our own


def test_a_file_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").write_text("mine", encoding="utf-8")
    with pytest.raises(FewbitsError, match="is a file, and a model is saved as a directory"):
        fewbits.load(folder).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved").read_text(encoding="utf-8") == "mine"
