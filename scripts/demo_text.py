"""Write the demo's text: part of the Python reference manual, which every CPython carries."""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics

CHARACTERS = 80_000


def main(target: str) -> None:
    """Write the first topics, in the order of their names, to `target`."""
    manual = "\n\n".join(topics[name].strip() for name in sorted(topics))
    Path(target).write_text(manual[:CHARACTERS], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
