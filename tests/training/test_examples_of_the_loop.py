"""The example of an adapter, and the README's lines on training, run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_example_learns_its_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "finetune.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )

    assert done.returncode == 0, done.stderr
    told = done.stdout.strip().split("\n")
    before, after = (float(number) for number in re.findall(r"\d+\.\d+", told[0])[:2])
    assert after < 0.2 * before
    right = [line for line in told[1:] if line.split("-> ")[1].split("'")[1] == line.split("(")[1].rstrip(")")]
    assert len(right) >= 4
    assert (tmp_path / "adapter.gguf").stat().st_size > 1_000_000


def test_the_readme_trains(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    code = next(each for each in blocks if "fewbits.finetune(" in each)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "out").mkdir()
    text = tmp_path / "out" / "text.txt"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "demo_text.py"), str(text)], check=True)
    text.write_text(text.read_text(encoding="utf-8")[:8_000], encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900
    )

    assert done.returncode == 0, done.stderr
    adapter, taught = (line.split() for line in done.stdout.strip().split("\n"))
    assert float(adapter[1]) < float(adapter[0])
    assert float(taught[1]) < float(taught[0])
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()
