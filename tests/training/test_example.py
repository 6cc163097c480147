"""The example runs as its file says: training brings back what rounding to 2 bits lost, and the README's lines run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def ran(arguments: list[str], cwd: Path) -> str:
    """What a program prints, on one thread."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("bits", [2, 8])
def test_digits(bits: int, tmp_path: Path) -> None:
    said = ran([str(ROOT / "examples" / "qat_vision.py"), "--bits", str(bits)], tmp_path)

    found = re.search(r"in floats (0\.\d+)\nin \d bits, rounded (0\.\d+), trained (0\.\d+)", said)
    assert found is not None
    floats, rounded, trained = map(float, found.groups())
    assert floats > 0.93
    assert floats - trained < max(0.2 * (floats - rounded), 0.01)
    assert bits == 8 or rounded < floats - 0.2


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    [code] = [
        part
        for part in re.findall(
            r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if "training.prepare" in part
    ]

    assert "PackedMatrix" in ran(["-c", code], tmp_path)
