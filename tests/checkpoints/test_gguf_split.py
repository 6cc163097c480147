"""Outputs in several parts: they hold what one file holds, appear together or not at all, and replace one another."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fewbits import compare, inspect, quantize
from fewbits.checkpoints import gguf_split
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.gguf_split import SplitWriter, plan_parts, read_size
from fewbits.checkpoints.gguf_writer import GGUFWriter
from fewbits.errors import CheckpointError, VerificationError
from references.stored_files import stored_bytes

KEYS = ("split.no", "split.count", "split.tensors.count")


def keys_of(reader: gguf.GGUFReader) -> set[str]:
    return {key for key in reader.fields if not key.startswith("GGUF.")}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_parts_hold_what_one_file_holds(pocket: Path, tmp_path: Path) -> None:
    one: Any = quantize(pocket, tmp_path / "one.gguf")
    record: Any = quantize(pocket, tmp_path / "m.gguf", split_size="1M")
    parts = sorted(tmp_path.glob("m-*.gguf"))
    count = len(parts)
    assert count == 3
    assert record.preview.parts == tuple(path.name for path in parts)
    assert [path.name for path in parts] == [f"m-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    assert all(path.stat().st_size <= 1_000_000 for path in parts)
    assert sum(path.stat().st_size for path in parts) == record.preview.bytes_out
    theirs = [gguf.GGUFReader(path) for path in parts]
    whole = gguf.GGUFReader(tmp_path / "one.gguf")
    # The package lists tensors in the order of the file; parts follow one another in the same order.
    assert [t.name for reader in theirs for t in reader.tensors] == [t.name for t in whole.tensors]
    for number, reader in enumerate(theirs):
        place = [reader.fields[key].contents() for key in KEYS]
        assert place == [number, count, len(whole.tensors)]
        kinds = [reader.fields[key].types[0].name for key in KEYS]
        assert kinds == ["UINT16", "UINT16", "INT32"]
        assert keys_of(reader) == ({*KEYS} | keys_of(whole) if number == 0 else {*KEYS})
    assert stored_bytes(parts[1]) == stored_bytes(tmp_path / "one.gguf")
    assert [t.relative_rms for t in record.tensors] == [t.relative_rms for t in one.tensors]


def test_the_card_says_the_sum_of_each_part_and_of_all(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", to="Q8_0", split_size=2_000_000)
    card = json.loads((tmp_path / "m.card.json").read_text(encoding="utf-8"))
    parts = sorted(tmp_path.glob("*.gguf"))
    assert card["preview"]["parts"] == [path.name for path in parts]
    assert card["parts_sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}
    assert card["output_sha256"] == hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    assert names(tmp_path) == [*(path.name for path in parts), "m.card.json"]


def test_what_fits_into_one_part_is_one_of_one(pocket: Path, tmp_path: Path) -> None:
    record: Any = quantize(pocket, tmp_path / "m.gguf", split_size="2G")
    assert names(tmp_path) == ["m-00001-of-00001.gguf", "m.card.json"]
    assert record.parts_sha256 == {"m-00001-of-00001.gguf": record.output_sha256}
    assert inspect(tmp_path / "m-00001-of-00001.gguf").mix.name == "Q4_K_M"  # type: ignore[union-attr]


def test_parts_as_source_and_compared(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "f.gguf", to="F16", split_size="3M")
    first = tmp_path / "f-00001-of-00003.gguf"
    quantize(first, tmp_path / "q.gguf", to="Q8_0", split_size="2M", tensors=["blk.0.*=Q6_K"])
    quantize(pocket, tmp_path / "direct.gguf", to="Q8_0", tensors=["blk.0.*=Q6_K"])
    assert stored_bytes(next(tmp_path.glob("q-*.gguf"))) == stored_bytes(tmp_path / "direct.gguf")
    text = tmp_path / "text.txt"
    text.write_text("Nothing is lost where a file is cut. " * 40, encoding="utf-8")
    kl = [
        compare(first, each, text=text, context=64, max_tokens=256).kl_divergence_mean
        for each in (next(tmp_path.glob("q-*.gguf")), tmp_path / "direct.gguf")
    ]
    assert kl[0] == kl[1] > 0


def test_a_tensor_larger_than_a_part_is_said(pocket: Path, tmp_path: Path) -> None:
    record: Any = quantize(pocket, tmp_path / "m.gguf", split_size="100K", dry_run=True)
    assert any("needs more than --split-size alone" in note for note in record.notes)
    assert names(tmp_path) == []


@pytest.mark.parametrize("sizes", [(4, 400, 40, 4000, 4, 4), (64,) * 30])
def test_no_part_is_empty_and_none_too_large(sizes: tuple[int, ...]) -> None:
    """Headers count: those of small parts are larger than their tensors."""
    rows = [(f"t{n}", "F32", (size // 4,), size) for n, size in enumerate(sizes)]
    for largest in (1, *range(300, 1500, 32), 5000, 10_000):
        layouts = plan_parts("llama", {}, rows, largest)
        assert [slot.name for layout in layouts for slot in layout.slots] == [row[0] for row in rows]
        assert all(layout.slots for layout in layouts)
        assert all(layout.size <= largest or len(layout.slots) == 1 for layout in layouts)
        # The next part's first tensor would not have fitted.
        for before, after in pairwise(layouts):
            assert before.size + after.slots[0].size + 100 > largest


@pytest.mark.parametrize(
    ("split_size", "saying"),
    [("0", "no size"), ("2X", "no size"), ("-1G", "no size"), ("", "no size"), ("1.5G", "no size")],
)
def test_sizes_that_are_none(split_size: str, saying: str, pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=saying):
        quantize(pocket, tmp_path / "m.gguf", split_size=split_size)
    assert read_size("10k") == read_size("10KB") == 10_000


def test_too_many_parts(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_split, "MOST_PARTS", 3)
    with pytest.raises(CheckpointError, match="at most 3 are written; take 2M or more"):
        quantize(pocket, tmp_path / "m.gguf", split_size="500K")
    assert names(tmp_path) == []


def test_parts_are_replaced_only_by_force_and_whole(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", split_size="900K")
    with pytest.raises(CheckpointError, match=r"m-00001-of-0000\d.gguf exists already"):
        quantize(pocket, tmp_path / "m.gguf", split_size="2M")
    before = names(tmp_path)
    quantize(pocket, tmp_path / "m.gguf", split_size="2M", force=True)
    assert set(names(tmp_path)) & set(before) == {"m.card.json"}
    assert open_gguf(next(tmp_path.glob("m-*.gguf"))).metadata["general.architecture"].value == "llama"


def test_parts_of_the_source_are_not_overwritten(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", to="F16", split_size="3M")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="is the source itself"):
        quantize(tmp_path / "m-00002-of-00003.gguf", tmp_path / "m.gguf", split_size="2M", force=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    quantize(tmp_path / "m-00002-of-00003.gguf", tmp_path / "m.gguf", force=True)  # one file is another name


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_name_that_cannot_be_given_leaves_what_was_there(
    failing: int, earlier: bool, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        quantize(pocket, tmp_path / "m.gguf", to="F16", split_size="3M")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    really, calls = GGUFWriter.publish, []

    def publish(self: GGUFWriter) -> None:
        calls.append(self.output)
        if len(calls) == failing:
            raise KeyboardInterrupt
        really(self)

    monkeypatch.setattr(GGUFWriter, "publish", publish)
    with pytest.raises(KeyboardInterrupt):
        quantize(pocket, tmp_path / "m.gguf", split_size="1M", force=earlier)
    assert len(calls) == failing
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_first_part_gets_its_name_last(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, seen = GGUFWriter.publish, []

    def publish(self: GGUFWriter) -> None:
        seen.append(self.output.name)
        # Every part is complete and verified before the first of them is named.
        assert len(list(tmp_path.glob("*.gguf"))) + len(list(tmp_path.glob(".*.partial"))) == 3
        really(self)

    monkeypatch.setattr(GGUFWriter, "publish", publish)
    quantize(pocket, tmp_path / "m.gguf", split_size="1M")
    assert seen == [f"m-{n:05d}-of-00003.gguf" for n in (3, 2, 1)]


@pytest.mark.parametrize("fault", ["rows", "place"])
def test_a_fault_in_a_later_part_is_found(
    fault: str, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written wrongly into the second part: a matrix's rows, or the part's number."""
    really = SplitWriter.write_fields

    def write_fields(self: SplitWriter, name: str, first_row: int, fields: Any) -> None:
        spoiled = dict(fields)
        if self._owners[name] is self._writers[1] and name.endswith("ffn_up.weight") and fault == "rows":
            spoiled["data"] = np.ascontiguousarray(fields["data"][::-1])
        really(self, name, first_row, spoiled)

    monkeypatch.setattr(SplitWriter, "write_fields", write_fields)
    if fault == "place":
        monkeypatch.setattr(gguf_split, "_place", lambda number, count, tensors: PLACE(0, count, tensors))
    with pytest.raises((VerificationError, CheckpointError)):
        quantize(pocket, tmp_path / "m.gguf", split_size="1M")
    assert names(tmp_path) == []


PLACE = gguf_split._place
