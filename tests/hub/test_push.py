"""Outputs to the hub: what is sent, what the model card says, what is refused, and that nothing is ever lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import fewbits
from hub.conftest import Machine, refused
from references.hub_server import Hub, Repository, sha256


@pytest.fixture(scope="session")
def quantized(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "out.gguf"
    fewbits.quantize(pocket, path, to="Q8_0")
    return path


@pytest.fixture
def output(machine: Machine, quantized: Path) -> Path:
    """A finished output and its card, in the home of the machine."""
    for path in (quantized, quantized.with_name("out.card.json")):
        shutil.copy2(path, machine.home)
    return machine.home / "out.gguf"


def front_matter(readme: bytes) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(readme.decode().split("---")[1])
    return found


def test_quantize_and_push_in_one(machine: Machine, hub: Hub, repository: Repository) -> None:
    done = machine.fewbits("quantize", "org/pocket", "-o", "o.gguf", "--push", "us/pocket-GGUF", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    there = hub.repositories["us/pocket-GGUF"]
    assert there.private
    assert set(there.files) == {".gitattributes", "o.gguf", "o.card.json", "README.md"}
    assert there.files["o.gguf"] == (machine.home / "o.gguf").read_bytes()
    assert front_matter(there.files["README.md"]) == {
        "base_model": "org/pocket",
        "base_model_relation": "quantized",
        "library_name": "gguf",
        "license": "other",
        "license_name": "pocket",
        "license_link": f"https://huggingface.co/org/pocket/blob/{repository.branches['main']}/LICENSE",
        "pipeline_tag": "text-generation",
        "quantized_by": "us",
        "tags": ["gguf", "fewbits", "quantized", "Q4_K_M"],
    }
    said = json.loads(done.stdout)
    assert said == machine.card("o.card.json")
    plan = {"repository": "us/pocket-GGUF", "creates": True, "private": True, "notes": []}
    assert said["preview"]["push"] == {**plan, "files": ["o.gguf", "o.card.json", "README.md"]}
    assert said["pushed"]["commit"] == there.branches["main"]
    assert f"/us/pocket-GGUF/commit/{there.branches['main']}" in said["pushed"]["url"]


def test_the_model_card_says_what_the_card_says(machine: Machine, hub: Hub, output: Path) -> None:
    done = machine.fewbits("push", output, "me/pocket", "--base-model", "org/none")
    refused(done, "the base model org/none", "not on the hub")
    hub.repositories["org/base"] = Repository(card={"license": "mit"})
    hub.repositories["org/base"].commit_files({"config.json": b"{}"})

    done = machine.fewbits("push", output, "me/pocket", "--base-model", "org/base")

    assert (done.returncode, done.stderr) == (0, "")
    readme = hub.repositories["me/pocket"].files["README.md"]
    card = machine.card("out.card.json")
    text = readme.decode()
    assert front_matter(readme)["license"] == "mit"
    assert front_matter(readme)["base_model"] == "org/base"
    assert "at commit" not in text  # of org/base no commit is known: the source was a path
    assert f"| SHA-256 | `{card['output_sha256']}` |" in text
    assert "| recipe | Q8_0 |" in text
    assert "| method | nearest |" in text
    for form in card["formats"]:
        assert f"| {form['format']} | {form['tensors']} |" in text


@pytest.mark.parametrize(
    ("to", "dialect", "library"),
    [
        ("nf4_g64", "fewbits", "fewbits"),
        ("int4_g64_sym_f16", "mlx", "mlx"),
        ("int8_row_sym", "torchao", "transformers"),
    ],
)
def test_a_directory_goes_up_with_its_tokenizer(
    machine: Machine, hub: Hub, pocket: Path, to: str, dialect: str, library: str
) -> None:
    """And is said to be of whoever loads it."""
    fewbits.quantize(pocket, machine.home / "out", to=to, dialect=dialect)

    done = machine.fewbits("push", "out", "me/pocket", "--public", "--json")

    assert done.returncode == 0, done.stderr
    there = hub.repositories["me/pocket"]
    assert not there.private
    local = {p.name: p.read_bytes() for p in (machine.home / "out").iterdir()}
    assert {name: there.files[name] for name in local} == local
    assert set(there.files) - set(local) == {".gitattributes", "out.card.json", "README.md"}
    assert front_matter(there.files["README.md"])["library_name"] == library


def test_what_leaves_the_machine_names_no_folder_of_it(
    machine: Machine, hub: Hub, output: Path, quantized: Path, pocket: Path
) -> None:
    kept = output.with_name("out.card.json").read_text(encoding="utf-8")
    assert str(quantized) in kept
    assert str(pocket) in kept
    assert machine.fewbits("push", output, "me/pocket").returncode == 0

    for name, data in hub.repositories["me/pocket"].files.items():
        if name != "out.gguf":
            assert str(quantized.parent).encode() not in data, name
            assert str(pocket.parent).encode() not in data, name


def test_the_quality_table_of_a_comparison(machine: Machine, hub: Hub, output: Path) -> None:
    measured = comparison(output.stat().st_size)
    (machine.home / "out.compare.json").write_text(json.dumps(measured), encoding="utf-8")

    assert machine.fewbits("push", output, "me/pocket").returncode == 0

    files = hub.repositories["me/pocket"].files
    text = files["README.md"].decode()
    assert "| perplexity | 12.5000 | 12.6000 |" in text
    assert "| KL divergence, mean (nats per token) |  | 0.01200 |" in text
    assert "news.txt (SHA-256 " + "ab" * 32 in text
    assert json.loads(files["out.compare.json"])["text"] == "news.txt"


def comparison(size: int) -> dict[str, Any]:
    figures = {"perplexity_original": 12.5, "perplexity_quantized": 12.6, "kl_divergence_mean": 0.012}
    sizes = {"bytes_original": 10 * size, "bytes_quantized": size}
    text = {"text": "/home/me/news.txt", "text_sha256": "ab" * 32, "tokens": 1000, "windows": 4, "context": 512}
    return {**figures, "top1_agreement": 0.97, **sizes, **text, "protocol": "windows"}


def test_a_comparison_of_another_file_is_refused(machine: Machine, output: Path) -> None:
    (machine.home / "other.json").write_text(json.dumps(comparison(123)), encoding="utf-8")

    refused(machine.fewbits("push", output, "me/pocket", "--compare", "other.json"), "other.json", "123")


def test_several_files_share_a_repository_and_its_card(machine: Machine, hub: Hub, output: Path, pocket: Path) -> None:
    machine.fewbits("quantize", pocket, "-o", "small.gguf", "--to", "Q4_0", "-q")
    assert machine.fewbits("push", output, "me/pocket").returncode == 0
    hub.repositories["me/pocket"].commit_files({"odd.card.json": b'{"schema": 1, "preview": []}'})
    second = machine.fewbits("push", "small.gguf", "me/pocket")
    assert (second.returncode, second.stderr) == (0, "")

    files = hub.repositories["me/pocket"].files

    assert {"out.gguf", "small.gguf", "out.card.json", "small.card.json"} <= set(files)
    text = files["README.md"].decode()
    assert text.index("## small.gguf") < text.index("## out.gguf")


def test_a_readme_of_somebody_else_stays(machine: Machine, hub: Hub, output: Path) -> None:
    hub.repositories["me/mine"] = Repository()
    hub.repositories["me/mine"].commit_files({"README.md": b"# My own words"})

    done = machine.fewbits("push", output, "me/mine")

    assert done.returncode == 0
    assert "stays as it is" in " ".join(done.stdout.split())
    assert hub.repositories["me/mine"].files["README.md"] == b"# My own words"
    assert "out.gguf" in hub.repositories["me/mine"].files


def test_a_dry_run_says_what_would_go_and_sends_nothing(machine: Machine, hub: Hub, output: Path) -> None:
    plan = json.loads(machine.fewbits("push", output, "me/pocket", "--dry-run", "--json").stdout)
    tables = machine.fewbits("quantize", "out.gguf", "-o", "o.gguf", "--push", "me/pocket", "--dry-run")

    assert (plan["repository"], plan["creates"], plan["private"]) == ("me/pocket", True, True)
    assert plan["files"] == ["out.gguf", "out.card.json", "README.md"]
    assert len(plan["notes"]) == 2  # no base model, no licence
    assert tables.returncode == 2  # out.gguf is quantized already
    assert "me/pocket" not in hub.repositories
    assert not hub.sent("POST", "")


def test_the_preview_of_quantize_says_what_will_go(machine: Machine, hub: Hub, pocket: Path) -> None:
    done = machine.fewbits("quantize", pocket, "-o", "o.gguf", "--push", "me/pocket", "--dry-run")

    assert done.returncode == 0
    assert "o.gguf, o.card.json, README.md to me/pocket (new, private)" in " ".join(done.stdout.split())
    assert "me/pocket" not in hub.repositories


@pytest.mark.parametrize("part", ["PUT /lfs/", "/preupload/", "/commit/", "/repos/create", "/objects/batch"])
def test_an_upload_that_fails_loses_nothing_and_goes_on(
    part: str, machine: Machine, hub: Hub, repository: Repository
) -> None:
    hub.fail[part] = (403, "no")

    done = machine.fewbits("quantize", "org/pocket", "-o", "o.gguf", "--push", "me/pocket", "-q")

    refused(done, "me/pocket", "o.gguf and its card are complete", "`fewbits push o.gguf me/pocket` goes on")
    before = (machine.home / "o.gguf").read_bytes()
    assert machine.card("o.card.json")["pushed"] is None
    hub.fail.clear()

    again = machine.fewbits("push", "o.gguf", "me/pocket", "-q")

    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (machine.home / "o.gguf").read_bytes() == before == hub.repositories["me/pocket"].files["o.gguf"]
    sent = [r for r in hub.sent("PUT", "/lfs/") if sha256(before) in r]
    assert len(sent) == (2 if part == "PUT /lfs/" else 1)


def test_what_the_hub_has_is_not_sent_again(machine: Machine, hub: Hub, output: Path) -> None:
    assert machine.fewbits("push", output, "me/pocket").returncode == 0
    sent = len(hub.sent("PUT", "/lfs/"))
    commits = len(hub.repositories["me/pocket"].commits)

    assert machine.fewbits("push", output, "me/pocket").returncode == 0

    assert len(hub.sent("PUT", "/lfs/")) == sent
    assert len(hub.repositories["me/pocket"].commits) == commits


def test_a_large_file_goes_in_parts(machine: Machine, hub: Hub, output: Path) -> None:
    hub.part_size = 1_000_000

    assert machine.fewbits("push", output, "me/pocket").returncode == 0

    assert len(hub.sent("PUT", "/part/")) > 3
    assert hub.repositories["me/pocket"].files["out.gguf"] == output.read_bytes()


def test_what_is_refused_before_any_work(machine: Machine, hub: Hub, pocket: Path) -> None:
    quantize = ("quantize", pocket, "-o", "o.gguf", "--push")

    refused(machine.fewbits(*quantize, "me/pocket", HF_TOKEN=None), "login", "hf auth login")
    refused(machine.fewbits(*quantize, "me/pocket", HF_TOKEN="hf_wrong"), "refuses this login")
    refused(machine.fewbits(*quantize, "others/pocket"), "others/pocket", "me, us")
    refused(machine.fewbits(*quantize, "pocket"), "org/name")
    refused(machine.fewbits(*quantize, "me/pocket", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE")
    refused(machine.fewbits(*quantize, "me/pocket", HF_ENDPOINT="http://127.0.0.1:9"), "network")
    refused(machine.fewbits(*quantize[:-1], "--public"), "--push")
    assert [p.name for p in machine.home.iterdir() if p.name != "hf"] == []
    assert not hub.sent("POST", "")


def test_what_is_no_output(machine: Machine, output: Path, pocket: Path) -> None:
    refused(machine.fewbits("push", "none.gguf", "me/pocket"), "none.gguf", "does not exist")
    refused(machine.fewbits("push", "out.card.json", "me/pocket"), "out.card.json")
    refused(machine.fewbits("push", pocket, "me/pocket"), "card.json")
    refused(machine.fewbits("push", output, "me/pocket", "--base-model", "x"), "base model")
    shutil.copy(output, machine.home / "alone.gguf")
    refused(machine.fewbits("push", "alone.gguf", "me/pocket"), "alone.card.json", "beside it")
    shutil.copy(machine.home / "out.card.json", machine.home / "alone.card.json")
    data = bytearray(output.read_bytes())
    data[-1] ^= 1
    (machine.home / "alone.gguf").write_bytes(data)
    refused(machine.fewbits("push", "alone.gguf", "me/pocket"), "alone.gguf", "SHA-256")
    (machine.home / "alone.card.json").write_text('{"schema": 7}', encoding="utf-8")
    refused(machine.fewbits("push", "alone.gguf", "me/pocket"), "alone.card.json", "schema 1")


def test_a_hub_that_keeps_something_else_is_told(machine: Machine, hub: Hub, output: Path) -> None:
    hub.repositories["me/pocket"] = Repository()
    hub.repositories["me/pocket"].commit_files({"a": b"b"})
    hub.loses = "out.gguf"

    refused(machine.fewbits("push", output, "me/pocket", "-q"), "does not hold out.gguf as it was sent")


def test_a_token_is_in_no_debug_output_either(machine: Machine, hub: Hub, output: Path) -> None:
    hub.fail["/commit/"] = (403, "no")

    done = machine.fewbits("push", output, "me/pocket", FEWBITS_DEBUG="1")  # fewbits() looks for the token

    assert done.returncode == 2
    assert "Traceback" in done.stderr
