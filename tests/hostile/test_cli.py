"""The command line as a stranger meets it: the real program, wrong arguments, damaged files, full disks, kills.

Whatever is wrong: one sentence on stderr, exit code 2, nothing on stdout, nothing half-written left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

PROGRAM = [sys.executable, "-m", "fewbits"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
Done = subprocess.CompletedProcess[str]


def fewbits(*arguments: object, **options: object) -> Done:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT, **options
    )


def assert_refused(done: Done, *words: str) -> None:
    assert "Traceback" not in done.stderr
    assert "a bug in fewbits" not in done.stderr
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("fewbits: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def contents(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def model(pocket: Path, tmp_path: Path) -> Path:
    """A copy of the pocket model that a test may damage."""
    return Path(shutil.copytree(pocket, tmp_path / "model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the output."""
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["tables", "json"])
class TestRefusals:
    def test_no_such_source(self, json_too: list[str], folder: Path) -> None:
        assert_refused(fewbits("quantize", "no/such/path", "-o", folder / "o.gguf", *json_too), "no/such/path")
        assert contents(folder) == []

    def test_a_directory_without_config(self, json_too: list[str], folder: Path, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()

        assert_refused(fewbits("quantize", empty, "-o", folder / "o.gguf", *json_too), "config.json")

    def test_an_unknown_recipe_names_the_near_ones(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        done = fewbits("quantize", pocket, "-o", folder / "o.gguf", "--to", "Q4_K_N", *json_too)

        assert_refused(done, "'Q4_K_N'", "Q4_K_M", "Q8_0")

    def test_an_unknown_method(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        done = fewbits("quantize", pocket, "-o", folder / "o.gguf", "--method", "nearst", *json_too)

        assert_refused(done, "'nearst'", "nearest")

    def test_a_method_that_reads_no_text_with_text(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        text = folder.parent / "text.txt"
        text.write_text("words " * 10_000, encoding="utf-8")
        given = ("--method", "nearest", "--calibration", text)

        assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", *given, *json_too), "nearest", "gptq")
        assert contents(folder) == []

    @pytest.mark.parametrize("option", ["--guard", "--target-text", "--write-importance"])
    def test_what_only_a_method_that_reads_text_can_use(
        self, option: str, json_too: list[str], pocket: Path, folder: Path
    ) -> None:
        given = (option, folder / "file")

        assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", *given, *json_too), option, "gptq")
        assert contents(folder) == []

    def test_an_importance_matrix_that_exists(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        (folder / "kept.gguf").write_text("precious", encoding="utf-8")
        given = ("--method", "gptq", "--write-importance", folder / "kept.gguf")

        assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", *given, *json_too), "kept.gguf", "--force")
        assert (folder / "kept.gguf").read_text(encoding="utf-8") == "precious"

    def test_an_output_that_exists(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        (folder / "o.gguf").write_text("precious", encoding="utf-8")

        assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", *json_too), "o.gguf", "--force")
        assert (folder / "o.gguf").read_text(encoding="utf-8") == "precious"
        assert contents(folder) == ["o.gguf"]

    def test_an_output_in_no_directory(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        assert_refused(fewbits("quantize", pocket, "-o", folder / "no" / "o.gguf", *json_too), str(folder / "no"))

    def test_an_output_that_is_somebody_elses_directory(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        (folder / "thesis.txt").write_text("years of work")

        assert_refused(fewbits("quantize", pocket, "-o", folder, *json_too), str(folder), "exists already")
        assert_refused(fewbits("quantize", pocket, "-o", folder, "--force", *json_too), "fewbits did not write")
        assert contents(folder) == ["thesis.txt"]

    def test_a_truncated_source(self, json_too: list[str], model: Path, folder: Path) -> None:
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])

        assert_refused(fewbits("quantize", model, "-o", folder / "o.gguf", *json_too), "model.safetensors")
        assert contents(folder) == []

    def test_a_header_bomb(self, json_too: list[str], model: Path, folder: Path) -> None:
        weights = model / "model.safetensors"
        weights.write_bytes(struct.pack("<Q", 2**62) + weights.read_bytes()[8:])

        assert_refused(fewbits("quantize", model, "-o", folder / "o.gguf", *json_too), "model.safetensors")

    def test_a_pickle_checkpoint(self, json_too: list[str], model: Path, folder: Path) -> None:
        (model / "model.safetensors").rename(model / "pytorch_model.bin")

        assert_refused(fewbits("quantize", model, "-o", folder / "o.gguf", *json_too), "safetensors")

    def test_not_a_number_in_a_weight(self, json_too: list[str], model: Path, folder: Path) -> None:
        weights = model / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-2:] = np.array([0x7FC0], np.uint16).tobytes()  # a BF16 NaN in the last tensor of the file
        weights.write_bytes(data)

        assert_refused(fewbits("quantize", model, "-o", folder / "o.gguf", "--quiet", *json_too), "NaN", "1 ")
        assert contents(folder) == []

    def test_an_unknown_architecture(self, json_too: list[str], model: Path, folder: Path) -> None:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        config.update(architectures=["MambaForCausalLM"], model_type="mamba")
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")

        assert_refused(fewbits("quantize", model, "-o", folder / "o.gguf", *json_too), "Mamba", "Llama", "Qwen3")

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"hello, world"])
    def test_a_file_that_is_nothing(self, json_too: list[str], content: bytes, tmp_path: Path) -> None:
        file = tmp_path / "odd.gguf"
        file.write_bytes(content)

        assert_refused(fewbits("inspect", file, *json_too), "odd.gguf")

    def test_no_file_to_inspect(self, json_too: list[str], tmp_path: Path) -> None:
        assert_refused(fewbits("inspect", tmp_path / "none.gguf", *json_too), "none.gguf")

    def test_a_text_too_short(self, json_too: list[str], pocket: Path, tmp_path: Path) -> None:
        text = tmp_path / "short.txt"
        text.write_text("Too short.", encoding="utf-8")

        assert_refused(fewbits("compare", pocket, pocket, "--text", text, *json_too), "short.txt", "too short")

    def test_formats_that_are_unknown(self, json_too: list[str], pocket: Path) -> None:
        assert_refused(fewbits("formats", "Q4_KM", *json_too), "'Q4_KM'", "Q4_K")
        assert_refused(fewbits("explain", "1", "--formats", "Q9_0,F16", *json_too), "'Q9_0'", "Q8_0")
        assert_refused(fewbits("explain", "1", "--formats", ",", *json_too), "no format is named")

    @pytest.mark.parametrize("number", ["abc", "nan", "inf", "-1e400", "--fromats", "1,5", ""])
    def test_numbers_that_are_none(self, json_too: list[str], number: str) -> None:
        assert_refused(fewbits("explain", "2.5", number, *json_too), "number")

    def test_nothing_to_explain_or_too_much(self, json_too: list[str], pocket: Path, folder: Path) -> None:
        place = f"{pocket}:model.norm.weight"

        assert_refused(fewbits("explain", *json_too), "--tensor")
        assert_refused(fewbits("explain", "1", "--tensor", place, *json_too), "not both")
        assert_refused(fewbits("explain", "1", "--png", folder / "x.png", *json_too), "--tensor")
        assert_refused(fewbits("explain", "--tensor", f"{pocket}:model.nrm.weight", *json_too), "model.norm.weight")
        assert_refused(fewbits("explain", "--tensor", place, "--formats", "Q4_K", "--sample", "0", *json_too), "sample")
        assert contents(folder) == []

    def test_a_name_that_is_no_text(self, json_too: list[str], folder: Path) -> None:
        name = os.fsdecode(b"no-\xff\x1b[31m-such")

        assert_refused(fewbits("quantize", name, "-o", folder / "o.gguf", *json_too), "such")


def test_success_says_the_same_as_tables_and_as_json(pocket: Path, folder: Path) -> None:
    tables = fewbits("quantize", pocket, "-o", folder / "a.gguf")
    as_json = fewbits("quantize", pocket, "-o", folder / "b.gguf", "--json")

    assert (tables.returncode, tables.stderr, as_json.returncode, as_json.stderr) == (0, "", 0, "")
    card = json.loads(as_json.stdout)
    assert card["output_sha256"] in tables.stdout
    assert card["verified"] is True
    assert contents(folder) == ["a.card.json", "a.gguf", "b.card.json", "b.gguf"]
    assert (folder / "a.gguf").read_bytes() == (folder / "b.gguf").read_bytes()
    assert json.loads((folder / "b.card.json").read_text(encoding="utf-8")) == card


def test_a_dry_run_tells_the_exact_size_and_writes_nothing(pocket: Path, folder: Path) -> None:
    plan = json.loads(fewbits("quantize", pocket, "-o", folder / "o.gguf", "--dry-run", "--json").stdout)
    assert contents(folder) == []

    fewbits("quantize", pocket, "-o", folder / "o.gguf", "--quiet")

    assert plan["bytes_out"] == (folder / "o.gguf").stat().st_size


@pytest.mark.parametrize("arguments", [["inspect", "POCKET"], ["formats"], ["explain", "1", "2"]], ids=lambda a: a[0])
def test_a_reader_that_leaves_is_not_an_error(arguments: list[str], pocket: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, *(str(pocket) if a == "POCKET" else a for a in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == b""


def test_inspect_reads_what_quantize_wrote(pocket: Path, folder: Path) -> None:
    fewbits("quantize", pocket, "-o", folder / "o.gguf", "--quiet")
    card = json.loads((folder / "o.card.json").read_text(encoding="utf-8"))

    seen = json.loads(fewbits("inspect", folder / "o.gguf", "--json").stdout)

    assert {t["name"]: (t["format"], t["bytes"]) for t in seen["tensors"]} == {
        t["name"]: (t["format"], t["bytes_out"]) for t in card["tensors"]
    }
    assert seen["bits_per_weight"] == pytest.approx(card["preview"]["bits_per_weight"])


@pytest.mark.parametrize("limit", ["file size", "disk"])
def test_a_full_disk(limit: str, pocket: Path, folder: Path) -> None:
    with small_disk(folder) if limit == "disk" else contextlib.nullcontext():
        done = fewbits(
            "quantize", pocket, "-o", folder / "o.gguf", "--quiet", preexec_fn=limit_files if limit != "disk" else None
        )

        assert_refused(done, "o.gguf")
        assert contents(folder) == []


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def slow_model(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 100 million weights, so that there is a middle to be interrupted in."""
    folder = tmp_path_factory.mktemp("slow") / "model"
    shutil.copytree(pocket, folder)
    layers, hidden, inner = 6, 1024, 4096
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.update(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=16)
    config.update(num_key_value_heads=16, head_dim=64)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
    write_random_weights(folder / "model.safetensors", shapes)
    return folder


def write_random_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    noise = (np.random.default_rng(0).normal(size=4_194_304).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for shape in shapes.values():
            file.write(noise[: int(np.prod(shape))].tobytes())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("split", [[], ["--split-size", "20M"]], ids=["one file", "parts"])
def test_a_kill_in_the_middle_leaves_nothing(
    number: signal.Signals, split: list[str], slow_model: Path, folder: Path
) -> None:
    command = [*PROGRAM, "quantize", str(slow_model), "-o", str(folder / "o.gguf"), "--threads", "1", "--quiet", *split]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    wait_for_work(process, folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert not [name for name in contents(folder) if not name.startswith(".")]
    if number != signal.SIGKILL:
        assert_refused(subprocess.CompletedProcess(command, process.returncode, out, err), "interrupted")
        assert contents(folder) == []
    else:
        assert process.returncode == -signal.SIGKILL
        assert contents(folder), "killed before or after the work: the test shows nothing"
        # Parts of another size have other names: what the killed run left goes all the same.
        again = ["--split-size", "50M"] if split else []
        assert fewbits("quantize", slow_model, "-o", folder / "o.gguf", "--quiet", *again).returncode == 0
        written = [f"o-0000{n}-of-00002.gguf" for n in (1, 2)] if split else ["o.gguf"]
        assert contents(folder) == sorted(["o.card.json", *written])


def wait_for_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until something half-written lies in `folder`."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(entry.stat().st_size > 1_000_000 for entry in folder.iterdir()):
            return
        time.sleep(0.005)
    pytest.fail(f"no work was seen: {process.communicate(timeout=60)[1]}")


@pytest.mark.parametrize(
    ("text", "words", "more"),
    [("", ("is empty",), ()), ("too few", ("too short", "tokens"), ("--json",)), (None, ("text.txt",), ())],
)
def test_calibration_text_that_says_nothing(
    text: str | None, words: tuple[str, ...], more: tuple[str, ...], pocket: Path, folder: Path
) -> None:
    """Of tables and --json each text takes one: these runs load a network before they look at it."""
    if text is not None:
        (folder.parent / "text.txt").write_text(text, encoding="utf-8")
    given = ("--calibration", folder.parent / "text.txt")

    assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", *given, *more), "text.txt", *words)
    assert contents(folder) == []
