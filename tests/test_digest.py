"""Hashing begins once per file, stops when nobody wants it, and says what hashlib says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event

import pytest

from fewbits.digest import Digests, sha256_of
from fewbits.quantizing import _weights
from fewbits.workers import Workers


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_equal_to_hashlib(size: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(i % 251 for i in range(size)))

    assert sha256_of(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_each_file_is_hashed_once(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"some")
    other.write_bytes(b"more")
    with Workers(1) as workers:
        digests = Digests(workers)

        assert digests.begin(file) is digests.begin(file)
        assert digests.of([other, file]) == {str(other): sha256_of(other), str(file): sha256_of(file)}


def test_half_of_the_workers_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are free while files wait: with all of them hashing, nothing could be written."""
    files = [tmp_path / str(number) for number in range(5)]
    running, most, free, two = set(), [], Event(), Event()

    def slow(path: Path, _: Event) -> str:
        running.add(path)
        most.append(len(running))
        if len(running) == 2:
            two.set()
        free.wait(10)
        running.remove(path)
        return path.name

    monkeypatch.setattr("fewbits.digest.sha256_of", slow)
    with Workers(4) as workers:
        digests = Digests(workers)
        begun = [digests.begin(file) for file in files]
        assert [workers.submit(lambda: "written").result(10) for _ in range(2)] == ["written", "written"]
        assert two.wait(10)
        free.set()
        assert [each.result(10) for each in begun] == ["0", "1", "2", "3", "4"]
    assert max(most) == 2


def test_a_file_that_cannot_be_read_is_told_to_who_asks(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"some")
    with Workers(1) as workers:
        digests = Digests(workers)
        gone = digests.begin(tmp_path / "gone")

        assert digests.begin(there).result() == sha256_of(there)
        with pytest.raises(FileNotFoundError):
            gone.result()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["model.safetensors"], "model.safetensors"),
        (["model.safetensors", "model.safetensors.index.json"], None),
        (["pytorch_model.bin"], None),
    ],
)
def test_only_what_will_be_read_is_hashed_ahead(files: list[str], found: str | None, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")

    assert _weights(tmp_path) == (tmp_path / found if found else None)
    assert _weights(tmp_path / files[0]) == tmp_path / files[0]
    assert _weights(tmp_path / "absent") is None


def test_cancelled_work_reads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"some")
    cancelled = Event()
    cancelled.set()

    assert sha256_of(file, cancelled) == hashlib.sha256(b"").hexdigest()
