"""The card: whole or absent, beside its file, and documented key by key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fewbits.reporting import card
from fewbits.reporting.record import preview_to_json
from references import records

CALIBRATED = ("text that codes are chosen by", "guard's judgement", "verdict")
"""Sections that only a method that looks at text fills."""

DOCUMENT = Path(__file__).parents[2] / "docs" / "card.md"


def test_the_card_holds_what_the_record_holds(tmp_path: Path) -> None:
    record = records.record(tmp_path / "m.gguf", card.card_path(tmp_path / "m.gguf"))

    path = card.write_card(record)

    written = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "m.card.json"
    assert written == json.loads(json.dumps(record.to_json()))
    assert [t["relative_rms"] for t in written["tensors"]] == [0.01, 0.07, 0.004, 0.0]
    assert written["preview"]["fallbacks"] == [
        {"name": "layer.0.odd.weight", "format": "Q8_0", "why": "96 columns are no multiple of 256"}
    ]


def test_the_error_of_a_format_is_weighted_by_parameters(tmp_path: Path) -> None:
    plan = records.preview(tmp_path / "m.gguf")
    record = records.record(tmp_path / "m.gguf", tmp_path / "m.card.json")

    summaries = {summary.format: summary for summary in record.formats()}

    assert [summary.format for summary in record.formats()] == ["Q6_K", "Q4_K", "Q8_0", "F32"]
    assert summaries["Q4_K"].relative_rms == pytest.approx(0.07)
    assert summaries["Q4_K"].bits_per_weight == pytest.approx(4.5)
    assert all(summary.relative_rms is None for summary in plan.formats())


@pytest.mark.parametrize("fails", ["dump", "replace"])
def test_a_failed_write_leaves_the_old_card_and_nothing_else(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.card.json"
    target.write_text("old", encoding="utf-8")

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json if fails == "dump" else Path, fails, fail)
    with pytest.raises(OSError, match="No space"):
        card.write_card(records.record(tmp_path / "m.gguf", target))

    assert {entry.name: entry.read_text(encoding="utf-8") for entry in tmp_path.iterdir()} == {"m.card.json": "old"}


def test_what_a_killed_run_left_is_gone_after_the_next(tmp_path: Path) -> None:
    target = tmp_path / "m.card.json"
    (tmp_path / ".m.card.json.part").write_text("{half", encoding="utf-8")

    card.write_card(records.record(tmp_path / "m.gguf", target))

    assert [entry.name for entry in tmp_path.iterdir()] == ["m.card.json"]


@pytest.mark.parametrize(
    "section",
    [
        "card",
        "preview",
        "tensor",
        "format",
        "fallback",
        "text that codes are chosen by",
        "guard's judgement",
        "verdict",
    ],
)
def test_the_document_lists_every_key_and_no_other(section: str, tmp_path: Path) -> None:
    data = records.record(tmp_path / "m.gguf", tmp_path / "m.card.json").to_json()
    calibrated = records.calibrated_record(tmp_path / "m.gguf", tmp_path / "m.card.json").to_json()
    objects = {
        "card": data,
        "preview": data["preview"],
        "tensor": data["tensors"][0],
        "format": data["formats"][0],
        "fallback": data["preview"]["fallbacks"][0],
        "text that codes are chosen by": calibrated["preview"]["calibration"],
        "guard's judgement": calibrated["calibration"],
        "verdict": calibrated["calibration"]["verdicts"][0],
    }

    assert documented_keys(section) == sorted(objects[section])


def test_a_preview_alone_carries_its_schema_tensors_and_formats(tmp_path: Path) -> None:
    data = preview_to_json(records.preview(tmp_path / "m.gguf"))

    assert data["schema"] == 1
    assert len(data["tensors"]) == 4
    assert [f["format"] for f in data["formats"]] == ["Q6_K", "Q4_K", "Q8_0", "F32"]
    json.dumps(data, allow_nan=False)


def documented_keys(section: str) -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    part = text.split(f"## The {section}\n", 1)[1].split("\n## ", 1)[0]
    return sorted(re.findall(r"^\| `(\w+)` \|", part, flags=re.MULTILINE))
