"""The scripts behind the make targets: what they count, write and replace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("skips", "code", "said"),
    [
        ("at_least = 2", 1, "t.b::skipped was skipped and is not on the list."),
        ("at_least = 3\n[[skip]]\ntest = 't.b::skipped'\nuntil = 2999-01-01\nreason = 'x'", 1, "only 2 ran; 3 or more"),
        ("at_least = 2\n[[skip]]\ntest = 't.b::skipped'\nuntil = 2001-01-01\nreason = 'x'", 1, "until 2001-01-01: x"),
        ("at_least = 2\n[[skip]]\ntest = 't.b::skipped'\nuntil = 2999-01-01\nreason = 'x'", 0, ""),
    ],
)
def test_peer_tests_are_counted_and_skips_need_a_date(skips: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "skips.toml").write_text(skips, encoding="utf-8")
    (tmp_path / "report.xml").write_text(
        '<testsuites><testsuite><testcase classname="t.a" name="one"/><testcase classname="t.a" name="two"/>'
        '<testcase classname="t.b" name="skipped"><skipped message="m"/></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )

    done = run("count_peers.py", tmp_path / "report.xml", tmp_path / "skips.toml")

    assert done.returncode == code
    assert "Peer tests: 2 ran" in done.stdout
    assert said in done.stderr


def test_the_demo_text_is_long_enough_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("demo_text.py", tmp_path / name).returncode == 0

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size > 70_000


def test_the_readme_has_a_place_for_figures() -> None:
    from scripts.readme_figures import replaced

    text = replaced((ROOT / "README.md").read_text(encoding="utf-8"), "FIGURES\n")

    assert text.count("FIGURES") == 1
    assert "No figures yet" not in text
    assert text.count("<!-- bench:") == 2
