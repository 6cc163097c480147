"""docs/formats.md and `fewbits formats` say what the registry says, and the guide speaks of every format."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from scripts.formats_document import DOCUMENT, document

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.formats.description import entry_of
from fewbits.formats.drawing import draw
from fewbits.formats.guide import Part, families, guides


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run scripts/formats_document.py"


def test_every_format_has_an_entry_in_the_guide_and_no_entry_is_left_over() -> None:
    asked = {entry_of(formats.get(name)) for name in formats.FORMATS}
    assert asked == set(guides()), "say in formats/guide.toml who reads it and when to use it"


def test_readers_and_families_are_used_and_sentences_end() -> None:
    assert all(guide.readers and guide.when.endswith(".") for guide in guides().values())
    assert all(family.about.endswith(".") for family in families().values())


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_parts_of_a_span_are_its_bytes(name: str) -> None:
    described = formats.describe(name)

    if described.parts and described.span_bytes is not None:
        assert sum(part.size for part in described.parts) == 8 * described.span_bytes


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("width", [60, 78, 100])
def test_a_drawing_fits_and_names_every_part(name: str, width: int) -> None:
    described = formats.describe(name)
    lines = described.drawing(width).splitlines()

    if described.parts:
        assert max(map(len, lines)) <= width
        assert all(any(line.startswith(part.name) for line in lines) for part in described.parts)


@pytest.mark.parametrize("name", formats.members())
def test_the_fields_of_a_matrix_are_its_bits(name: str) -> None:
    described = formats.describe(name)
    cols = 4096 // described.span * described.span if described.span else 4096

    assert 8 * sum(field.size for field in described.fields) == formats.get(name).bits(4096, cols)
    assert all(field.name in described.drawing(100) for field in described.fields)


def test_every_link_of_the_document_leads_to_the_format_it_names() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", text, flags=re.MULTILINE)
    seen: Counter[str] = Counter()
    anchors = {}
    for heading in headings:  # as GitHub numbers headings that differ in case only
        anchor = heading.lower()
        anchors[heading] = f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1

    assert dict(re.findall(r"^\| \[`(.+?)`\]\(#(.+?)\)", text, flags=re.MULTILINE)) == anchors


def test_bits_are_drawn_where_parts_are_no_whole_bytes() -> None:
    drawn = draw((Part("sign", 1, 1, "s"), Part("exponent", 1, 4, "e"), Part("mantissa", 1, 3, "m")))

    assert drawn.startswith("bit 7")
    assert drawn.splitlines()[0].endswith(" 0")
    assert "exponent  6 .. 3" in drawn


def test_a_name_is_found_in_any_case_and_an_unknown_one_gets_the_nearest() -> None:
    assert formats.describe("q6_k").name == "Q6_K"
    assert [formats.describe(name).name for name in formats.FORMATS] == list(formats.FORMATS)
    with pytest.raises(FormatError, match=r"unknown format 'Q6_L'; did you mean 'Q6_K'"):
        formats.describe("Q6_L")
