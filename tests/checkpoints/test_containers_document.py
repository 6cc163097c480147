"""docs/containers.md says what containers and dialects say."""

from __future__ import annotations

from scripts.containers_document import DOCUMENT, document

from fewbits.checkpoints.dialects import DIALECTS
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run scripts/containers_document.py"


def test_every_dialect_holds_something_there() -> None:
    rows = [line.split("|")[2:-1] for line in document().splitlines() if line.startswith("| `") and line.count("|") > 8]
    assert len(rows) > 60
    assert all(any(row[2 + place].strip() for row in rows) for place in range(len(DIALECTS) + len(GRAPH_DIALECTS)))
