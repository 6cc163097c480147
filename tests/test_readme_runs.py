"""The README's Python runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code is not None
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "out").mkdir()
    text = tmp_path / "out" / "text.txt"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "demo_text.py"), str(text)], check=True)
    text.write_text(text.read_text(encoding="utf-8")[:8_000], encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    figures, rates, loaded, drawing = done.stdout.split("\n", maxsplit=3)
    sha256, divergence, bits = figures.split()
    assert len(sha256) == 64
    assert 0 < float(divergence) < 1
    assert 4.5 < float(bits) < 6.5
    assert all(float(rate) > 0 for rate in rates.split())
    assert len(rates.split()) == 3
    assert loaded.startswith("torch.Size([1, ")
    assert "'Q4_K': 24" in loaded
    assert "│ dmin │" in drawing
    assert "StoredNumber(number=3.1415, bits=(('code', '01111111'),), code=127" in drawing


def test_the_readme_shows_what_explain_prints() -> None:
    shown = re.search(
        r"```\n\$ fewbits (explain .*)\n((?:.*\n)*?)```", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert shown is not None

    done = subprocess.run(
        [sys.executable, "-m", "fewbits", *shown[1].split()], capture_output=True, text=True, check=True, timeout=120
    )

    assert [line.rstrip() for line in done.stdout.splitlines()] == shown[2].splitlines()
