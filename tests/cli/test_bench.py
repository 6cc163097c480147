"""`fewbits bench`: its options reach the function, and its output is a table or one JSON object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fewbits.cli.main import main
from reporting.test_speed_tables import SPEED


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What a stand-in for `bench` was asked."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def bench(model: str, *, progress: Any, **options: Any) -> object:
        print("a library says hello")
        progress("bench", 1, 2)
        calls.append((model, options))
        return SPEED

    monkeypatch.setattr("fewbits.speed.bench.bench", bench)
    return calls


DEFAULTS = {
    "prompt": 256,
    "generate": 32,
    "depth": 0,
    "repeats": 5,
    "warm_up": True,
    "cache": None,
    "exact": False,
    "mmap": False,
    "limit": True,
    "threads": None,
}
GIVEN = ["--prompt", "0", "--generate", "7", "--depth", "9", "--repeats", "2", "--no-warm-up", "--cache", "Q8_0"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {}),
        (
            [*GIVEN, "--exact", "--mmap", "--no-limit", "--threads", "3"],
            {"prompt": 0, "generate": 7, "depth": 9, "repeats": 2, "warm_up": False, "cache": "Q8_0"}
            | {"exact": True, "mmap": True, "limit": False, "threads": 3},
        ),
    ],
)
def test_options_reach_the_function(
    given: list[str], expected: dict[str, Any], asked: list[tuple[Any, dict[str, Any]]]
) -> None:
    assert main(["bench", "m.gguf", *given]) == 0
    assert asked == [("m.gguf", DEFAULTS | expected)]


def test_the_json_is_all_that_reaches_stdout(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "m.gguf", "--json"]) == 0

    streams = capsys.readouterr()
    data = json.loads(streams.out)
    assert data["generation"]["tokens_per_second"] == 32.0
    assert data["share_of_most"] == pytest.approx(0.8)
    assert data["energy_unmeasured"] == "energy cannot be measured: there are no counters."
    assert "a library says hello" in streams.err


def test_the_table_is_for_people(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "m.gguf"]) == 0
    assert "generation of 32 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["bench"], "Missing argument 'MODEL'"),
        (["bench", "m", "--repeats", "0"], "--repeats"),
        (["bench", "m", "--depth", "-1"], "--depth"),
        (["bench", "no-such-file.gguf"], "no-such-file.gguf does not exist"),
        (["bench", "m", "--prompt", "0", "--generate", "0"], "nothing to measure"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_code_2(
    given: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2

    streams = capsys.readouterr()
    assert streams.out == ""
    assert expected in streams.err
    assert streams.err.count("\n") == 1
