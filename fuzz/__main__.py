"""`python -m fuzz [TARGET...] --minutes 3 --seed 0`: fuzz readers, print how many inputs and crashes, keep the latter.

Each target runs in a process of its own, so that a crash of native code ends it alone: its last input is kept then.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.run import fuzz
from fuzz.targets import TARGETS


def main() -> int:
    """Run what the command line asks for; returns 1 where something crashed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}; none means all")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where inputs that crash are kept")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = [name for name in asked.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    names = asked.targets or list(TARGETS)
    if asked.here:
        return _here(names[0], asked.minutes, asked.seed, asked.out)
    return max(_apart(name, asked.minutes, asked.seed, asked.out) for name in names)


def _apart(name: str, minutes: float, seed: int, out: Path) -> int:
    command = [sys.executable, "-m", "fuzz", name, "--here", "--minutes", str(minutes), "--seed", str(seed)]
    code = subprocess.run([*command, "--out", str(out)], check=False).returncode
    if code < 0:
        sys.stdout.write(f"{name}: CRASH of the process, signal {-code}; its last input is {out / name}.last\n")
    return min(abs(code), 1)


def _here(name: str, minutes: float, seed: int, out: Path) -> int:
    faulthandler.enable()
    out.mkdir(parents=True, exist_ok=True)
    last = out / f"{name}.last"
    with tempfile.TemporaryDirectory() as folder:
        last.unlink(missing_ok=True)
        last.symlink_to(Path(folder) / TARGETS[name].name)
        outcome = fuzz(TARGETS[name], Path(folder), seed=seed, seconds=60 * minutes)
        last.unlink()
    sys.stdout.write(f"{outcome.line(name, seed)}\n")
    for number, (fault, data) in enumerate(outcome.crashes.items()):
        kept = out / f"{name}-{seed}-{number}"
        kept.write_bytes(data)
        sys.stdout.write(f"  {fault}: {kept}\n")
    sys.stdout.flush()
    return 1 if outcome.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
