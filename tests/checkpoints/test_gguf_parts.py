"""GGUF models in several files: written by the gguf package, read whichever part is named; and what is refused."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fewbits import compare, inspect, quantize
from fewbits.checkpoints.gguf_parts import is_part_of, open_gguf, part_path
from fewbits.checkpoints.opening import open_source
from fewbits.errors import CheckpointError
from references.gguf_files import write_gguf, write_parts


@pytest.fixture(scope="module")
def split(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The pocket model in F16: in one file, and in parts."""
    folder = tmp_path_factory.mktemp("split")
    whole = write_gguf(pocket, folder / "whole.gguf")
    return whole, write_parts(pocket, folder / "m.gguf", tensors=9)


def test_any_part_is_the_whole_model(split: tuple[Path, list[Path]]) -> None:
    whole, parts = split
    assert len(parts) > 3
    one = open_gguf(whole)
    for named in parts:
        several = open_gguf(named)
        assert several.files == tuple(parts)
        assert dict(several.metadata) == dict(one.metadata)
        assert sorted(several.names()) == sorted(one.names())
        for name in one.names():
            theirs, ours = one.read(name), several.read(name)
            assert (theirs.format, theirs.shape) == (ours.format, ours.shape)
            assert theirs.buffer.tobytes() == ours.buffer.tobytes()


def test_quantized_compared_and_inspected_as_one(split: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, parts = split
    for name, source in (("one", whole), ("several", parts[2])):
        quantize(source, tmp_path / f"{name}.gguf", to="Q8_0")
    one, several = (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in ("one", "several"))
    assert {t.name: t.data.tobytes() for t in one.tensors} == {t.name: t.data.tobytes() for t in several.tensors}
    assert set(one.fields) == set(several.fields)
    seen, alone = inspect(parts[1]), inspect(whole)
    assert seen.files == tuple(part.name for part in parts)
    assert seen.file_bytes == sum(part.stat().st_size for part in parts)
    assert (seen.parameters, seen.architecture, seen.metadata) == (alone.parameters, "llama", alone.metadata)
    text = tmp_path / "text.txt"
    text.write_text("Nothing is lost where a file is cut. " * 40, encoding="utf-8")
    assert compare(whole, parts[-1], text=text, context=64, max_tokens=256).kl_divergence_mean == 0.0


def test_every_file_of_the_source_is_hashed(split: tuple[Path, list[Path]], tmp_path: Path) -> None:
    record: Any = quantize(split[1][1], tmp_path / "o.gguf", to="Q8_0")
    assert [Path(name).name for name in record.source_sha256] == [part.name for part in split[1]]


def test_a_missing_part(split: tuple[Path, list[Path]], tmp_path: Path) -> None:
    for part in split[1]:
        shutil.copy(part, tmp_path)
    (tmp_path / split[1][1].name).unlink()
    (tmp_path / split[1][3].name).unlink()
    with pytest.raises(CheckpointError, match=r"one of 5 parts, and m-00002-of-00005\.gguf and 1 more is missing"):
        open_source(str(tmp_path / split[1][0].name))


def test_a_part_with_a_name_of_its_own(split: tuple[Path, list[Path]], tmp_path: Path) -> None:
    named = Path(shutil.copy(split[1][1], tmp_path / "model.gguf"))
    with pytest.raises(CheckpointError, match=r"part 2 of 5, .*call it NAME-00002-of-00005\.gguf"):
        open_gguf(named)


def test_parts_in_each_others_place(split: tuple[Path, list[Path]], tmp_path: Path) -> None:
    parts = [Path(shutil.copy(part, tmp_path)) for part in split[1]]
    second = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    parts[2].write_bytes(second)
    with pytest.raises(CheckpointError, match="should be part 2 of 5 and says that it is part 3 of 5"):
        open_gguf(parts[0])
    with pytest.raises(CheckpointError, match="by its name the others cannot be found"):
        open_gguf(parts[1])


Faults = dict[str, tuple[dict[str, Any], str]]

FAULTS: Faults = {
    "another_count": ({"split.count": 3}, "says that it is part 2 of 3"),
    "no_number": ({"split.no": None}, "should be part 2 of 2"),
    "no_split_at_all": ({"split.no": None, "split.count": None}, "says that it is no part of anything"),
    "another_total": ({"split.tensors.count": 4}, "hold 4 tensors and .* says 3; they belong to different models"),
    "another_model": ({"general.name": "other"}, "do not say the same of 'general.name'"),
    "tensors_lost": ({"tensors": []}, "hold 2 tensors together and say that there are 3"),
    "tensors_twice": ({"tensors": ["a"]}, "holds the tensor 'a', and so does"),
    "number_is_text": ({"split.no": "one"}, "states split.no = 'one'"),
    "negative_number": ({"split.no": -1}, "states split.no = -1"),
}


@pytest.mark.parametrize(("changes", "saying"), FAULTS.values(), ids=FAULTS)
def test_parts_that_do_not_belong_together(changes: dict[str, Any], saying: str, tmp_path: Path) -> None:
    first = {"general.name": "m", "split.no": 0, "split.count": 2, "split.tensors.count": 3, "tensors": ["a", "b"]}
    second = {"split.no": 1, "split.count": 2, "split.tensors.count": 3, "tensors": ["c"]}
    write_part(tmp_path / "m-00001-of-00002.gguf", first)
    write_part(tmp_path / "m-00002-of-00002.gguf", second)
    assert open_gguf(tmp_path / "m-00001-of-00002.gguf").names() == ["a", "b", "c"]
    write_part(tmp_path / "m-00002-of-00002.gguf", second | changes)
    with pytest.raises(CheckpointError, match=saying) as caught:
        open_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert "\n" not in str(caught.value)


def write_part(path: Path, values: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    kinds: dict[str, Callable[[str, Any], None]] = {
        "split.no": writer.add_uint16,
        "split.count": writer.add_uint16,
        "split.tensors.count": writer.add_int32,
    }
    for key, value in values.items():
        if key == "tensors" or value is None:
            continue
        add = writer.add_string if isinstance(value, str) else writer.add_int32 if value < 0 else kinds[key]
        add(key, value)
    for name in values["tensors"]:
        writer.add_tensor(name, np.arange(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_of_one_part_needs_no_name(tmp_path: Path) -> None:
    values = {"split.no": 0, "split.count": 1, "split.tensors.count": 1, "tensors": ["a"]}
    write_part(tmp_path / "m.gguf", values)
    assert open_gguf(tmp_path / "m.gguf").names() == ["a"]
    assert "split.count" not in open_source(str(tmp_path / "m.gguf")).metadata
    write_part(tmp_path / "m.gguf", {**values, "split.tensors.count": 2})
    with pytest.raises(CheckpointError, match="hold 1 tensors together and say that there are 2"):
        open_gguf(tmp_path / "m.gguf")


def test_parts_of_different_byte_orders(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 3)
    swapped = b"GGUF" + struct.pack(">IQQ", 3, 0, 3)
    for number, (start, order) in enumerate(((head, "<"), (swapped, ">"))):
        keys = (("split.no", 2, "H", number), ("split.count", 2, "H", 2), ("split.tensors.count", 5, "i", 0))
        data = start
        for key, kind, letter, value in keys:
            data += struct.pack(f"{order}Q", len(key)) + key.encode() + struct.pack(f"{order}I{letter}", kind, value)
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(data + bytes(64))
    with pytest.raises(CheckpointError, match="differ in their byte order"):
        open_gguf(tmp_path / "m-00002-of-00002.gguf")


def test_names_of_parts() -> None:
    assert part_path(Path("a/b.gguf"), 9, 12) == Path("a/b-00010-of-00012.gguf")
    assert part_path(Path("b.GGUF"), 0, 1) == Path("b-00001-of-00001.gguf")
    assert is_part_of(Path("a/b-00010-of-00012.gguf"), Path("a/b.gguf"))
    assert not any(is_part_of(Path(name), Path("a/b.gguf")) for name in ("a/b-10-of-12.gguf", "b-00010-of-00012.gguf"))
