"""The example runs as its file says, and its network is as good in whole numbers as in floats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_digits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "static_vision.py"), str(tmp_path / "digits.onnx")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    found = re.search(r"accuracy in float (0\.\d+), in int8 (0\.\d+)", done.stdout)
    assert found is not None
    before, after = map(float, found.groups())
    assert before > 0.96
    assert after > before - 0.01
    assert (tmp_path / "digits.onnx").stat().st_size < 60_000
