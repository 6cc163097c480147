"""Say how many peer tests ran, and fail when there are too few or a skip is not on the dated list."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def main(report: str, skips: str) -> int:
    """Compare pytest's JUnit report with the list of skips and print the count; 1 when something is wrong."""
    allowed: dict[str, Any] = tomllib.loads(Path(skips).read_text(encoding="utf-8"))
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skipped = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None]
    ran = len(cases) - len(skipped)
    problems = _problems(ran, skipped, allowed)
    print(f"Peer tests: {ran} ran (at least {allowed['at_least']} expected), {len(skipped)} skipped.")
    for problem in problems:
        print(f"Peer tests: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _problems(ran: int, skipped: list[str], allowed: dict[str, Any]) -> list[str]:
    problems = [] if ran >= allowed["at_least"] else [f"only {ran} ran; {allowed['at_least']} or more are expected."]
    listed = {entry["test"]: entry for entry in allowed.get("skip", [])}
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    for name in skipped:
        if name not in listed:
            problems.append(f"{name} was skipped and is not on the list.")
        elif listed[name]["until"] < today:
            problems.append(f"{name} was to be skipped until {listed[name]['until']}: {listed[name]['reason']}")
    return problems


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
