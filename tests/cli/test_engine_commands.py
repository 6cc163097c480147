"""`run` and `chat`: what goes to which stream, what ends them, and what every bad input looks like."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fewbits.engine
from fewbits.cli.main import main
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from references.fake_engine import FakeModel

Install = Callable[..., FakeModel]


@pytest.fixture(scope="module")
def tokens(pocket: Path) -> Vocabulary:
    return read_vocabulary(pocket)


@pytest.fixture
def engine(tokens: Vocabulary, pocket: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a model that writes these replies where the commands load one."""

    def install(*replies: str, **facts: Any) -> FakeModel:
        model = FakeModel(pocket, [tokens.encode(reply) for reply in replies], **facts)

        def load(path: Path, **options: Any) -> FakeModel:
            assert path == pocket
            model.asked.append(options)
            return model

        monkeypatch.setattr(fewbits.engine, "load", load, raising=False)
        return model

    return install


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False))


def test_the_text_goes_to_stdout_and_everything_about_it_to_stderr(
    engine: Install, pocket: Path, tokens: Vocabulary, capsys: pytest.CaptureFixture[str]
) -> None:
    model = engine(" a time.<|endoftext|>")
    size = len(tokens.encode("Once upon"))

    assert main(["run", str(pocket), "-p", "Once upon", "--seed", "7", "--top-k", "3"]) == 0

    streams = capsys.readouterr()
    assert streams.out == " a time.\n"
    chosen, summary = streams.err.splitlines()
    assert chosen == (
        f"fewbits: chosen for you: --tokens 256 --context {256 + size} --cache F16 --threads all --temperature 0.8 "
        "--top-p 0.95 --min-p 0.05 --repetition-penalty 1.0"
    )
    assert f"prompt of {size} tokens" in summary
    assert "ended by: end of text" in summary
    assert model.asked == [
        {"threads": None, "exact": False, "mapped": False},
        {"context": 256 + size, "cache": None, "sequences": 1},
    ]


def test_json_is_one_object_with_everything_in_it(
    engine: Install, pocket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(" one STOP two")

    options = ["--stop", "STOP", "--tokens", "50", "--temperature", "0", "--threads", "2", "--cache", "Q8_0", "--json"]
    assert main(["run", str(pocket), "-p", "Count:", *options]) == 0

    streams = capsys.readouterr()
    told = json.loads(streams.out)
    assert streams.err == ""
    assert (told["text"], told["ended"], told["stop_string"], told["complete"]) == (
        " one ",
        "stop string",
        "STOP",
        True,
    )
    assert told["tokens"] >= 2
    assert told["architecture"] == "llama"
    assert told["prompt_tokens_per_second"] > 0
    assert told["tokens_per_second"] > 0
    assert told["peak_memory_bytes"] > 1e6
    settings = told["settings"]
    assert type(settings.pop("seed")) is int
    assert settings == {
        "tokens": 50,
        "context": 50 + told["prompt_tokens"],
        "cache": "Q8_0",
        "exact": False,
        "mmap": False,
        "threads": 2,
        "stop": ["STOP"],
        "temperature": 0.0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty": 1.0,
        "repetition_window": 0,
    }


@pytest.mark.parametrize("way", ["stdin", "file"])
def test_the_prompt_is_read_as_it_is(
    engine: Install,
    pocket: Path,
    tokens: Vocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    text = "Zwei Zeilen,\r\nnaïve 🦊\n"
    model = engine("x")
    stdin(monkeypatch, text.encode())
    (tmp_path / "prompt.txt").write_bytes(text.encode())
    given = {"stdin": ["-p", "-"], "file": ["--prompt-file", str(tmp_path / "prompt.txt")]}[way]

    assert main(["run", str(pocket), *given, "-q"]) == 0

    assert model.sessions[0].tokens[: len(tokens.encode(text))] == tokens.encode(text)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_leaves_what_was_written_and_code_130(
    engine: Install, pocket: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    engine(" one two three four five", on_batch=interrupt)

    assert main(["run", str(pocket), "-p", "Count:", "-q", *(["--json"] if as_json else [])]) == 130

    streams = capsys.readouterr()
    text = json.loads(streams.out)["text"] if as_json else streams.out
    assert text.strip() == "one"
    assert streams.err == ""


def test_an_interrupt_while_loading_is_code_130_too(
    pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fewbits.engine, "load", load, raising=False)

    assert main(["run", str(pocket), "-p", "x"]) == 130
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("", "fewbits: interrupted.\n")


def test_a_terminal_is_not_steered_by_what_a_model_writes(
    engine: Install, pocket: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(" \x1b[2Jred\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert main(["run", str(pocket), "-p", "x", "-q"]) == 0
    assert capsys.readouterr().out == " \\x1b[2Jred\n"


def test_json_of_a_schema(engine: Install, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine()
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}')

    assert main(["run", str(pocket), "-p", "x", "--json-schema", str(schema), "-q", "--seed", "1"]) == 0

    assert all(each in ("a", "b") for each in json.loads(capsys.readouterr().out))


BAD: dict[str, tuple[list[str], str]] = {
    "no prompt": ([], "give the text to continue either by -p TEXT"),
    "two prompts": (["-p", "x", "--prompt-file", "y"], "give the text to continue either by -p TEXT"),
    "empty prompt": (["-p", ""], "the prompt is empty"),
    "broken prompt": (["-p", "a\udcff"], "the prompt is no UTF-8 text (from character 1 on)"),
    "broken stop": (["-p", "a", "--stop", "\udcff"], "a stop string is no UTF-8 text"),
    "empty stop": (["-p", "a", "--stop", ""], "a stop string is empty"),
    "missing file": (["--prompt-file", "nowhere.txt"], "nowhere.txt: there is no such file with a prompt"),
    "broken file": (["--prompt-file", "BROKEN"], "not UTF-8 text (byte 2)"),
    "no tokens": (["-p", "x", "--tokens", "0"], "ask for at least one"),
    "temperature": (["-p", "x", "--temperature", "-1"], "sampling: temperature is -1.0, and has to be a number from 0"),
    "top-p": (["-p", "x", "--top-p", "1.5"], "sampling: top_p is 1.5"),
    "seed": (["-p", "x", "--seed", "-4"], "sampling: seed is -4"),
    "cache": (["-p", "x", "--cache", "Q2"], "--cache"),
    "context": (
        ["-p", "x", "--context", "9000"],
        "a context of 9000 tokens is asked for, and the model was made for 2 to 512",
    ),
    "long prompt": (["-p", "word " * 700], "tokens and the context has room for 512"),
    "too much": (["-p", "x", "--tokens", "600"], "600 are to be written, and the model was made for 512 in all"),
    "small context": (["-p", "x", "--tokens", "60", "--context", "50"], "and the context has room for 50 in all"),
    "schema and stop": (["-p", "x", "--json-schema", "s", "--stop", "y"], "leave out --stop or --json-schema"),
    "no schema": (["-p", "x", "--json-schema", "s.json"], "s.json: there is no such file with a JSON schema"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_one_sentence_and_code_2(
    engine: Install, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    engine("x")
    (tmp_path / "broken.txt").write_bytes(b"ab\xff")
    arguments, expected = BAD[case]
    arguments = [str(tmp_path / "broken.txt") if each == "BROKEN" else each for each in arguments]

    assert main(["run", str(pocket), *arguments]) == 2

    streams = capsys.readouterr()
    assert streams.out == ""
    assert expected in streams.err
    assert streams.err.count("\n") == 1


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "nowhere.gguf", "-p", "x"], ["chat", "nowhere.gguf"]):
        assert main(command) == 2
        assert "nowhere.gguf: there is no such model; give a GGUF file" in capsys.readouterr().err


def test_stdin_that_is_no_text(
    engine: Install, pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine("x")
    stdin(monkeypatch, b"\xff")

    assert main(["run", str(pocket), "-p", "-"]) == 2
    assert "stdin: not UTF-8 text (byte 0)" in capsys.readouterr().err


def test_a_chat_answers_line_by_line_and_remembers(
    engine: Install, pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = engine(" Hello.\nUser:", " Bye.\nUser:", " Anew.\nUser:", " not reached")
    stdin(monkeypatch, b"Hi\n\nGo away\r\n/reset\nHi\n/exit\nmore\n")

    assert main(["chat", str(pocket), "--template", "plain", "--system", "Be kind.", "--seed", "3"]) == 0

    streams = capsys.readouterr()
    assert streams.out == " Hello.\n Bye.\n Anew.\n"
    lines = [line for line in streams.err.splitlines() if "remembered" in line]
    remembered = [int(line.split(" remembered")[0].rsplit(" ", 1)[1]) for line in lines]
    assert remembered[0] == 0
    assert remembered[1] > remembered[2] > 0
    assert streams.err.startswith(
        "fewbits: chosen for you: --tokens 512 --context 512 --cache F16 --threads all --temperature 0.8 --top-k 40 "
        "--top-p 0.95 --min-p 0.05 --repetition-penalty 1.0\n"
    )
    assert "a new conversation begins" in streams.err
    assert len(model.sessions) == 1


def test_a_chat_is_quiet_when_told(
    engine: Install, pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(" Hello.<|endoftext|>")
    stdin(monkeypatch, b"Hi")

    assert main(["chat", str(pocket), "--template", "chatml", "-q"]) == 0
    assert capsys.readouterr() == (" Hello.\n", "")


def test_a_chat_without_a_template_is_refused(
    engine: Install, pocket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine("x")

    assert main(["chat", str(pocket)]) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_what_a_script_says_wrong_ends_a_chat_and_a_person_may_go_on(
    engine: Install, pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine(" Yes.\nUser:")
    long = "word " * 700
    stdin(monkeypatch, f"{long}\nHi\n".encode())
    assert main(["chat", str(pocket), "--template", "plain", "-q"]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "tokens by now, and the context has room for 512" in refused.err

    lines = iter([long, "Hi"])

    def typed(_prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", typed)
    assert main(["chat", str(pocket), "--template", "plain", "-q"]) == 0
    streams = capsys.readouterr()
    assert "tokens by now" in streams.err
    assert streams.out == " Yes.\n\n"


def test_an_interrupt_ends_a_reply_and_at_the_prompt_the_chat(
    engine: Install, pocket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beats = iter([KeyboardInterrupt()])

    def interrupt_once() -> None:
        for error in beats:
            raise error

    engine(" one two three\nUser:", " four.\nUser:", on_batch=interrupt_once)
    lines = iter(["Count", "More", KeyboardInterrupt()])

    def typed(_prompt: str) -> str:
        line = next(lines)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", typed)

    assert main(["chat", str(pocket), "--template", "plain"]) == 130
    streams = capsys.readouterr()
    assert streams.out == " one\n four.\n"
    assert "ended by: interrupted" in streams.err
    assert "Traceback" not in streams.err
