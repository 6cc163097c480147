"""Sources from the hub: fetched once, at one commit, on where they broke off; every refusal one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.conftest import Machine, refused
from references.hub_server import Hub, Repository, sha256


@pytest.fixture
def weights(repository: Repository) -> str:
    return sha256(repository.files["model.safetensors"])


def quantize(*more: object) -> tuple[object, ...]:
    return ("quantize", "org/pocket", "-o", "o.gguf", "--to", "Q8_0", *more)


def test_a_repository_is_fetched_once_and_pinned_to_its_commit(
    machine: Machine, hub: Hub, repository: Repository
) -> None:
    done = machine.fewbits(*quantize())

    assert (done.returncode, done.stderr) == (0, "")
    commit = repository.branches["main"]
    assert f"{commit} of org/pocket" in " ".join(done.stdout.split())
    stated = machine.card("o.card.json")["preview"]["hub"]
    license = {"license": "other", "license_name": "pocket", "license_link": "LICENSE"}
    assert stated == {"repository": "org/pocket", "revision": None, "commit": commit, "license": license}
    assert not [r for r in hub.requests if any(n in r for n in ("pytorch_model", "consolidated", "onnx"))]
    first = len(hub.requests)

    again = machine.fewbits(*quantize("--force"))

    assert again.returncode == 0
    assert not [r for r in hub.requests[first:] if "/resolve/" in r or "/cdn/" in r]


def test_the_same_bytes_as_from_a_directory(machine: Machine, repository: Repository) -> None:
    folder = machine.home / "pocket"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_bytes(repository.files[name])

    machine.fewbits(*quantize())
    machine.fewbits("quantize", folder, "-o", "p.gguf", "--to", "Q8_0")

    assert (machine.home / "o.gguf").read_bytes() == (machine.home / "p.gguf").read_bytes()


def test_a_broken_connection_goes_on_at_its_byte(machine: Machine, hub: Hub, weights: str) -> None:
    hub.breaks[weights] = [12_000_000, 1_000_000]

    done = machine.fewbits(*quantize())

    assert (done.returncode, done.stderr) == (0, "")
    ranges = [int(r.split()[1]) for r in hub.requests if r.startswith("RANGE")]
    assert len(hub.sent("GET", f"/cdn/{weights}")) == 3
    assert ranges == [10_485_760, 10_485_760]  # as much as the client had written down
    assert machine.card("o.card.json")["verified"] is True


def test_a_revision_is_looked_up_and_recorded(machine: Machine, repository: Repository) -> None:
    first = repository.branches["main"]
    repository.branches["v1"] = first
    second = repository.commit_files({"generation_config.json": b"{}"})
    assert second != first

    assert machine.fewbits(*quantize("--revision", "v1")).returncode == 0

    stated = machine.card("o.card.json")["preview"]["hub"]
    assert (stated["revision"], stated["commit"]) == ("v1", first)


def test_offline_the_cache_serves_and_the_card_says_so(machine: Machine, hub: Hub, repository: Repository) -> None:
    refused(machine.fewbits(*quantize(), HF_HUB_OFFLINE="1"), "org/pocket", "cache", "HF_HUB_OFFLINE")
    assert machine.fewbits(*quantize()).returncode == 0
    asked = len(hub.requests)

    for changes in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = machine.fewbits(*quantize("--force"), **changes)

        assert (done.returncode, done.stderr) == (0, "")
        preview = machine.card("o.card.json")["preview"]
        assert preview["hub"]["commit"] == repository.branches["main"]
        assert [note for note in preview["notes"] if "could not be asked" in note]
    assert len(hub.requests) == asked


def test_a_part_of_a_repository_in_the_cache_is_not_taken_for_all(
    machine: Machine, hub: Hub, repository: Repository, weights: str
) -> None:
    hub.fail["/cdn/" + weights] = (404, "gone")
    refused(machine.fewbits(*quantize()), "org/pocket")

    refused(machine.fewbits(*quantize(), HF_HUB_OFFLINE="1"), "org/pocket", "not all of it")
    assert not (machine.home / "o.gguf").exists()


def test_no_such_repository_and_no_such_revision(machine: Machine, repository: Repository) -> None:
    missing = ("quantize", "org/pokcet", "-o", "o.gguf")
    refused(machine.fewbits(*missing), "org/pokcet", "not on the hub", "hf auth login")
    refused(machine.fewbits(*missing, HF_TOKEN=None), "org/pokcet", "not on the hub", "hf auth login")
    refused(machine.fewbits(*quantize("--revision", "v9")), "org/pocket (revision v9)", "no such revision")


def test_a_gated_repository(machine: Machine, repository: Repository) -> None:
    repository.gated = True

    refused(machine.fewbits(*quantize(), HF_TOKEN=None), "org/pocket", "gated", "terms", "hf auth login")
    assert machine.fewbits(*quantize()).returncode == 0


def test_no_network(machine: Machine, repository: Repository) -> None:
    refused(machine.fewbits(*quantize(), HF_ENDPOINT="http://127.0.0.1:9"), "org/pocket", "network")


def test_a_connection_that_breaks_too_often(machine: Machine, hub: Hub, weights: str) -> None:
    hub.breaks[weights] = [1000] * 20

    done = machine.fewbits(*quantize())

    refused(done, "org/pocket", "broke off too often", "run the same command again")
    assert not list((machine.home / "hf").rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, ("cache", "network")),
        (429, ("asked too often",)),
        (403, ("does not allow",)),
        (418, ("418", "I am a pot")),
    ],
)
def test_other_answers(status: int, words: tuple[str, ...], machine: Machine, hub: Hub, repository: Repository) -> None:
    hub.fail["GET /api/models/org/pocket"] = (status, "I am a pot")

    refused(machine.fewbits(*quantize()), "org/pocket", *words)


def test_a_repository_that_changes_meanwhile(machine: Machine, hub: Hub, repository: Repository) -> None:
    hub.moving = True

    refused(machine.fewbits(*quantize()), "org/pocket", "changed while")


def test_what_is_no_model(machine: Machine, hub: Hub) -> None:
    for files, words in (
        ({"model-Q8_0.gguf": b"GGUF"}, ("GGUF files (model-Q8_0.gguf)",)),
        ({"config.json": b"{}", "pytorch_model.bin": b"\x80"}, ("pickles (pytorch_model.bin)", "--allow-pickle")),
        ({"notes.txt": b"x"}, ("no model",)),
    ):
        hub.repositories["org/odd"] = Repository()
        hub.repositories["org/odd"].commit_files(files)

        refused(machine.fewbits("quantize", "org/odd", "-o", "o.gguf"), "org/odd", *words)


def test_a_path_has_no_revision(machine: Machine, pocket: Path) -> None:
    refused(machine.fewbits("quantize", pocket, "-o", "o.gguf", "--revision", "v1"), "revision", "path")
    refused(machine.fewbits("quantize", "no/such/path", "-o", "o.gguf", "--revision", "v1"), "org/name")


@pytest.mark.parametrize("found", ["before", "while"])
def test_a_full_disk(found: str, machine: Machine, hub: Hub, repository: Repository, weights: str) -> None:
    cache = machine.home / "hf"
    cache.mkdir()
    with small_disk(cache):
        if found == "while":  # somebody else fills the disk after the look at it
            machine.environment["PYTHONPATH"] = f"{overstating(machine.home)}:{os.environ['PYTHONPATH']}"
        done = machine.fewbits(*quantize())

        refused(done, "the disk is full", "org/pocket", "HF_HOME")
        assert not list(cache.rglob("*.incomplete"))


def overstating(folder: Path) -> Path:
    """A folder for PYTHONPATH whose sitecustomize makes every disk look empty."""
    (folder / "site").mkdir()
    code = "import shutil, types\nshutil.disk_usage = lambda path: types.SimpleNamespace(free=1 << 50)\n"
    (folder / "site" / "sitecustomize.py").write_text(code, encoding="utf-8")
    return folder / "site"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_compare_takes_a_hub_id_too(machine: Machine, repository: Repository) -> None:
    (machine.home / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    assert machine.fewbits(*quantize("-q")).returncode == 0

    done = machine.fewbits("compare", "org/pocket", "o.gguf", "--text", "text.txt", "--context", "64", "--json")

    said = [line for line in done.stderr.splitlines() if "left" not in line]  # of how long it takes, on a slow machine
    assert (done.returncode, said) == (0, [])
    found = json.loads(done.stdout)
    assert found["original"] == "org/pocket"
    assert found["bytes_original"] == len(repository.files["model.safetensors"])
