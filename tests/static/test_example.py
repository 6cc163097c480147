"""The example runs as its file says, and its network is as good in whole numbers as in floats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_readme_runs(tmp_path: Path) -> None:
    [code] = [
        part
        for part in re.findall(
            r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if "static.quantize" in part
    ]
    (tmp_path / "out").mkdir()

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert "0.0    uint8" in done.stdout
    assert "torch.Size([3, 10])" in done.stdout
    assert (tmp_path / "out" / "network.onnx").exists()


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
