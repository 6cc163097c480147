"""Progress: bars in a terminal, rare lines in a log, nothing where nobody asked."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from fewbits.cli.progress import Bars, PlainLines, pause, progress_report
from fewbits.cli.quantize import _stages


def test_short_work_writes_no_line_to_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_report("quantize") as report:
        for done in range(100):
            report("quantize", done, 100)

    assert capsys.readouterr() == ("", "")


def test_long_work_writes_a_line_now_and_then_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    report = PlainLines(clock=lambda: now)
    for second in range(101):
        now = float(second)
        report("quantize", second, 200)

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fewbits: quantize 10%, about 180 s left"
    assert len(lines) == 5


def test_a_total_of_zero_divides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    report = PlainLines(clock=lambda: now)
    now = 100.0
    report("verify", 0, 0)

    assert capsys.readouterr().err == ""


def test_bars_follow_their_stages_and_take_unknown_ones() -> None:
    progress = Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    bars = Bars(progress, ("quantize", "verify"))

    bars("quantize", 5, 10)
    bars("download", 1, 4)
    bars.stop()

    figures = {task.description: (task.completed, task.total, task.started) for task in progress.tasks}
    assert figures == {"quantize": (5, 10, True), "verify": (0, None, False), "download": (1, 4, True)}


@pytest.mark.parametrize(
    ("recipe", "method", "given", "stages"),
    [
        ("Q4_0", None, False, "quantize verify"),
        ("Q4_0", None, True, "calibrate quantize verify"),
        ("Q4_0", "hadamard", False, "rotate quantize verify"),
        ("Q4_0", "hadamard+gptq", False, "rotate calibrate quantize verify"),
        ("Q4_0", "hqq", False, "quantize verify"),
        ("smoothquant", None, False, "calibrate quantize verify"),
    ],
)
def test_each_stage_has_a_bar_in_its_order(recipe: str, method: str | None, given: bool, stages: str) -> None:
    options = {"to": recipe, "method": method, "push": None}

    assert _stages("some/path/of/mine", options, given=given) == tuple(stages.split())


def test_what_is_fetched_and_sent_has_its_bars_too() -> None:
    options = {"to": "Q4_0", "method": None, "push": "me/mine"}

    assert _stages("org/name", options, given=False) == ("download", "quantize", "verify", "upload")
    assert _stages("tests/cli", options, given=False) == ("quantize", "verify", "upload")  # which exists


def test_a_pause_takes_finished_bars_away_and_the_others_come_back() -> None:
    screen = io.StringIO()
    progress = Progress(console=Console(file=screen, force_terminal=True), auto_refresh=False)
    bars = Bars(progress, ("download", "quantize"))
    bars("download", 4, 4)

    pause(bars)

    assert [task.description for task in progress.tasks] == ["quantize"]
    bars("quantize", 1, 2)
    bars("download", 1, 4)
    assert {task.description: task.completed for task in progress.tasks} == {"quantize": 1, "download": 1}
    bars.stop()
