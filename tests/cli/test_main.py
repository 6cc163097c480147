"""The command line's manners: what goes to which stream, and what every kind of failure looks like."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from fewbits.cli.commands import COMMANDS
from fewbits.cli.failure import describe
from fewbits.cli.main import main
from fewbits.errors import CheckpointError
from references import records

Quantize = Callable[..., Any]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Quantize], None]:
    """Puts a stand-in where the command looks for `quantize`."""

    def install(quantize: Quantize) -> None:
        monkeypatch.setitem(sys.modules, "fewbits.quantizing", SimpleNamespace(quantize=quantize))  # type: ignore[arg-type]

    return install


def raising(error: BaseException) -> Quantize:
    def quantize(*_arguments: object, **_options: object) -> None:
        raise error

    return quantize


def test_every_failure_is_one_sentence_on_stderr_and_code_2(
    pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failures = {
        "it is cut off.": CheckpointError("it is\ncut off."),
        "no space is left": OSError(errno.ENOSPC, "No space left on device", "/x/out.gguf"),
        "permission denied": PermissionError(errno.EACCES, "Permission denied", "/x"),
        "a directory, and a file is needed": IsADirectoryError(errno.EISDIR, "Is a directory", "/x"),
        "interrupted": KeyboardInterrupt(),
        "memory": MemoryError(),
        "not enough for this": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        "a bug in fewbits": ZeroDivisionError("division by zero"),
        "SystemExit": SystemExit(7),
    }
    for expected, error in failures.items():
        pipeline(raising(error))

        code = main(["quantize", "model", "-o", "out.gguf", "--json"])

        streams = capsys.readouterr()
        assert (code, streams.out) == (2, ""), expected
        assert expected in streams.err
        assert streams.err.count("\n") == 1
        assert "Traceback" not in streams.err


def test_a_traceback_is_there_for_those_who_ask(
    pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWBITS_DEBUG", "1")
    pipeline(raising(ZeroDivisionError("division by zero")))

    assert main(["quantize", "model", "-o", "out.gguf"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["quantize"], "Missing argument 'SOURCE'"),
        (["quantize", "m"], "Missing option '-o'"),
        (["quantize", "m", "-o", "o", "--threads", "0"], "--threads"),
        (["quantize", "m", "-o", "o", "--wat"], "--wat"),
        (["compare", "a", "b"], "Missing option '--text'"),
        (["compare", "a", "b", "--text", "t", "--context", "many"], "--context"),
        (["inspect"], "Missing argument 'FILE'"),
        (["--wat"], "--wat"),
    ],
)
def test_wrong_usage(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2

    streams = capsys.readouterr()
    assert streams.out == ""
    assert expected in streams.err
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], *[[name, "--help"] for name in COMMANDS]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0

    streams = capsys.readouterr()
    assert streams.out.startswith("Usage: fewbits")
    assert streams.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fewbits ")


def test_json_is_all_that_reaches_stdout_even_when_a_library_prints(
    pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def quantize(_source: str, output: Path, **options: Any) -> object:
        print("a library says hello")
        options["on_preview"](records.preview(output))
        options["progress"]("quantize", 1, 2)
        return records.record(output, output.with_suffix(".card.json"))

    pipeline(quantize)
    assert main(["quantize", "model", "-o", str(tmp_path / "m.gguf"), "--json"]) == 0

    streams = capsys.readouterr()
    assert json.loads(streams.out)["output_sha256"] == "cd" * 32
    assert "a library says hello" in streams.err


def test_the_preview_comes_before_the_work_and_names_the_defaults(
    pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def quantize(_source: str, output: Path, **options: Any) -> object:
        options["on_preview"](records.preview(output))
        print("WORK")
        return records.record(output, output.with_suffix(".card.json"))

    pipeline(quantize)
    assert main(["quantize", "model", "-o", str(tmp_path / "m.gguf"), "--seed", "3"]) == 0

    out = capsys.readouterr().out
    assert out.index("Preview: Q4_K_M") < out.index("WORK") < out.index("Largest errors") < out.index("Result")
    assert "--to Q4_K_M, --method nearest, --threads all" in out


@pytest.mark.parametrize("calls_back", [True, False])
def test_a_dry_run_prints_the_preview_once(
    calls_back: bool, pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def quantize(_source: str, output: Path, **options: Any) -> object:
        assert options["dry_run"]
        plan = records.preview(output)
        if calls_back:
            options["on_preview"](plan)
        return plan

    pipeline(quantize)
    assert main(["quantize", "model", "-o", str(tmp_path / "m.gguf"), "--dry-run"]) == 0

    assert capsys.readouterr().out.count("Preview: Q4_K_M") == 1


def test_quiet_is_quiet(
    pipeline: Callable[[Quantize], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def quantize(_source: str, output: Path, **options: Any) -> object:
        options["on_preview"](records.preview(output))
        return records.record(output, output.with_suffix(".card.json"))

    pipeline(quantize)
    assert main(["quantize", "model", "-o", str(tmp_path / "m.gguf"), "--quiet"]) == 0

    assert capsys.readouterr() == ("", "")


def test_escape_codes_of_a_hostile_file_do_not_reach_the_terminal() -> None:
    assert describe(CheckpointError("tensor \x1b[2J\x07 is odd")) == "tensor \\x1b[2J\\x07 is odd"
    assert describe(click.UsageError("a\x1bb")).startswith("a\\x1bb")


@pytest.mark.parametrize("module", ["fewbits", "fewbits.cli.main"])
def test_a_reader_that_leaves_is_no_failure_to_report(module: str) -> None:
    if module == "fewbits.cli.main":
        command = f"{sys.executable} -c 'import sys; from fewbits.cli.main import main; sys.exit(main())' --help"
    else:
        command = f"{sys.executable} -m fewbits --help"
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True, check=False, timeout=60)

    assert done.stderr == ""


def test_a_full_stdout_is_said_in_one_sentence() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "fewbits", "--help"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )

    assert done.returncode == 2
    assert done.stderr == "fewbits: no space is left on the device; free some, or write to another disk.\n"


@pytest.mark.parametrize("module", ["click", "fewbits.cli.quantize", "numpy", "fewbits.checkpoints.opening"])
def test_an_interrupt_while_modules_load_is_one_sentence_too(module: str, pocket: Path, tmp_path: Path) -> None:
    code = f"""
import sys
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(Interrupt)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt)
from fewbits.cli.main import main
sys.exit(main(["quantize", {str(pocket)!r}, "-o", {str(tmp_path / "o.gguf")!r}]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fewbits: interrupted; nothing half-done was left behind.\n"
