"""Files that say much more than they should: refused after a look at counts and lengths, whatever their own size."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from fewbits.checkpoints import limits, sentencepiece_model
from fewbits.checkpoints.directory_layout import plan_directory
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.imatrix import read_importance
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.checkpoints.sentencepiece_model import read_model
from fewbits.errors import CheckpointError

SIZE = 40_000_000
"""Bytes of a bomb's core; written as a hole of zeros where that will do."""


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def key(kind: int, raw: bytes) -> bytes:
    return text(b"a") + struct.pack("<I", kind) + raw


def gguf(rest: bytes, tensors: int = 0, keys: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


Bomb = tuple[Callable[[Path], object], bytes, int, str]

BOMBS: dict[str, Bomb] = {
    # reader, beginning of the file, zeros behind it, what is said
    "numbers": (GGUFReader, gguf(key(9, struct.pack("<IQ", 0, SIZE))), SIZE, "more numbers"),
    "texts": (GGUFReader, gguf(key(9, struct.pack("<IQ", 8, SIZE // 8))), SIZE, "more texts"),
    "long_text": (GGUFReader, gguf(key(8, text(b"", SIZE))), SIZE, "more bytes of text"),
    "long_token": (GGUFReader, gguf(key(9, struct.pack("<IQ", 8, 1) + text(b"", 2**21))), SIZE, "in one text"),
    "keys": (GGUFReader, gguf(b"", keys=limits.METADATA_KEYS + 1), SIZE, "are the most that are read"),
    "tensors": (GGUFReader, gguf(b"", tensors=limits.TENSORS + 1, keys=0), SIZE, "are the most that are read"),
    "header": (SafetensorsReader, struct.pack("<Q", SIZE), SIZE, "above the limit"),
    "header_of_lists": (SafetensorsReader, safetensors(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"), 0, "values"),
    "entries": (read_importance, struct.pack("<i", limits.TENSORS + 1), SIZE, "are the most that are read"),
    "json": (load_object, b'{"a":"', SIZE, "at most 16000000"),
    "json_of_lists": (load_object, b'{"a":[' + b"{}," * 2_000_000 + b"{}]}", 0, "values"),
    "long_model": (read_model, b"\x0a\x05hello", SIZE, "damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path) -> None:
    read, beginning, zeros, saying = BOMBS[name]
    path = tmp_path / "bomb"
    path.write_bytes(beginning)
    with path.open("r+b") as file:
        file.truncate(len(beginning) + zeros)
    del beginning

    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert saying in str(caught.value)
    assert len(str(caught.value)) < 600
    assert peak < 100_000_000


def test_many_arrays_count_together(tmp_path: Path) -> None:
    keys = [text(b"k%d" % n) + struct.pack("<I", 9) + struct.pack("<IQ", 0, 2**20) + bytes(2**20) for n in range(3)]
    path = tmp_path / "arrays.gguf"
    path.write_bytes(gguf(b"".join(keys), keys=3))

    with pytest.raises(CheckpointError, match=r"'k2'.*more numbers"):
        GGUFReader(path)


def test_pieces_are_counted_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.model"
    piece = b"\x0a\x05\x0a\x03abc"
    path.write_bytes(piece * 100)
    assert len(read_model(path).pieces) == 100

    monkeypatch.setattr(sentencepiece_model, "PIECES", 99)
    monkeypatch.setattr(sentencepiece_model, "_piece", None)
    with pytest.raises(CheckpointError, match="damaged"):
        read_model(path)


def test_a_real_vocabulary_is_far_from_the_limits(tmp_path: Path) -> None:
    """262,144 tokens and 514,906 merges, each a pair: the largest tokenizer.json that is known."""
    vocabulary = {f"token{n}": n for n in range(262_144)}
    merges = [[f"a{n}", f"b{n}"] for n in range(514_906)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": vocabulary, "merges": merges}}), encoding="utf-8")

    found = load_object(path, most_bytes=limits.TOKENIZER_BYTES, most_values=limits.TOKENIZER_VALUES)

    assert len(found["model"]["merges"]) == 514_906


def test_a_directory_that_no_reader_would_take_is_not_begun(pocket: Path) -> None:
    tensors = [Matrix(f"model.layers.{n}.weight", "F32", (1, 1)) for n in range(140_000)]

    with pytest.raises(CheckpointError, match="the header for 140000 tensors"):
        plan_directory(pocket, (pocket / "config.json",), tensors, "F32")
