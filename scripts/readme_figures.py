"""Run the benches, show what they print, and put it between the bench marks of README.md with machine and date."""

from __future__ import annotations

import datetime as dt
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCHES = ("bench/quantize.py", "bench/quality.py")
BEGIN, END = r"<!-- bench:begin [^\n]*-->\n", "<!-- bench:end -->"


def main() -> int:
    """Measure, print and write; a bench that fails leaves README.md as it is."""
    outputs = []
    for bench in BENCHES:
        code, output = _run(bench)
        # quality.py ends with 1 when a bar is missed: that is a figure too, and stands in its last line.
        if code not in (0, 1) or not output.strip():
            print(f"{bench} ended with code {code}; README.md is left as it is.", file=sys.stderr)
            return code
        outputs.append(f"`{bench}`:\n\n```\n{output.strip()}\n```\n")
    stamp = f"On {_processor()}, Python {platform.python_version()}, {dt.datetime.now(tz=dt.timezone.utc).date()}.\n"
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    body = "\n".join([stamp, *outputs])
    readme.write_text(replaced(text, body), encoding="utf-8")
    return 0


def replaced(text: str, body: str) -> str:
    """`text` with `body` between the marks.

    >>> replaced("a\\n<!-- bench:begin (x) -->\\nold\\n<!-- bench:end -->\\n", "new\\n")
    'a\\n<!-- bench:begin (x) -->\\nnew\\n<!-- bench:end -->\\n'
    """
    found = re.search(f"({BEGIN}).*?({END})", text, flags=re.DOTALL)
    if found is None:
        raise SystemExit("README.md has no bench marks to write between.")
    return text[: found.end(1)] + body + text[found.start(2) :]


def _run(bench: str) -> tuple[int, str]:
    lines = []
    with subprocess.Popen([sys.executable, bench], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    names = (
        re.findall(r"^model name\s*: (.*)$", described.read_text(), flags=re.MULTILINE) if described.exists() else []
    )
    return f"{names[0]} ({len(names)} processors)" if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
