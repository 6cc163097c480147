"""docs/formats.md says what the registry says."""

from __future__ import annotations

from scripts.formats_document import DOCUMENT, document


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run scripts/formats_document.py"
