"""`inspect` of a hub id: headers and what they need, nothing else, and the same as of the directory itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fewbits
from hub.conftest import Machine, refused
from references.hub_server import Hub, Repository

MADE = {"torchao": "int4_g32_sym", "fewbits": "nf4_g64_dq"}


def stated(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output)
    return found


def test_a_repository_is_inspected_by_its_header(machine: Machine, hub: Hub, repository: Repository) -> None:
    commit, weights = repository.branches["main"], repository.files["model.safetensors"]
    folder = machine.home / "same"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(repository.files[name])

    done = machine.fewbits("inspect", "org/pocket", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    found, wanted = stated(done.stdout), fewbits.inspect(folder).to_json()
    assert found.pop("path") == f"org/pocket@{commit}"
    wanted.pop("path")
    assert found == json.loads(json.dumps(wanted))
    assert [r for r in hub.requests if r.startswith("RANGE")] == ["RANGE 0-100000"]
    assert len(weights) > 16_000_000
    assert "model.safetensors" not in [path.name for path in (machine.home / "hf").rglob("*")]


@pytest.mark.parametrize("dialect", MADE)
def test_every_dialect_is_read_as_from_a_directory(
    machine: Machine, hub: Hub, pocket: Path, tmp_path: Path, dialect: str
) -> None:
    """Several files; what has to look into a tensor, whether all zero points are 0, gets that one."""
    fewbits.quantize(pocket, tmp_path / "out", to=MADE[dialect], dialect=dialect, split_size="1M", threads=2)
    there = hub.repositories["org/quantized"] = Repository()
    there.commit_files({file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()})

    done = machine.fewbits("inspect", "org/quantized", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    found, wanted = stated(done.stdout), fewbits.inspect(tmp_path / "out").to_json()
    assert found.pop("path") != wanted.pop("path")
    assert found == json.loads(json.dumps(wanted))
    assert found["dialect"] == dialect
    assert {each["format"] for each in found["formats"]} >= {MADE[dialect]}


def test_revisions_refusals_and_the_cache(machine: Machine, hub: Hub, repository: Repository) -> None:
    length = (1 << 40).to_bytes(8, "little")
    repository.commit_files({"model.safetensors": length + bytes(200_000)})
    refused(machine.fewbits("inspect", "org/pocket", "--revision", "none"), "no such revision")
    refused(machine.fewbits("inspect", "org/nothing"), "is not on the hub")
    refused(machine.fewbits("inspect", "org/pocket"), "claims a header of 1099511627776 bytes")
    refused(machine.fewbits("inspect", "org/pocket", HF_HUB_OFFLINE="1"), "is not in the cache")
    refused(machine.fewbits("inspect", str(machine.home), "--revision", "main"), "only a repository of the hub")
