"""Importance matrices written: byte for byte what llama-imatrix writes of the same sums, and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewbits.checkpoints.imatrix import Importance, read_importance
from fewbits.checkpoints.imatrix_writer import write_importance
from fewbits.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"
EXPERTS = Importance(np.arange(1, 13, dtype=np.float32), np.array([5, 0, 700], np.float32))
PLAIN = Importance(np.array([3, 1, 4, 1.5], np.float32), np.array([700], np.float32))


def write(path: Path, entries: dict[str, Importance], *, datasets: tuple[str, ...] = ("a.txt",)) -> Path:
    write_importance(path, entries, chunk_length=256, chunks=3, datasets=datasets)
    return path


@pytest.mark.parametrize("ending", ["gguf", "dat"])
def test_the_bytes_are_llama_imatrixs_own(ending: str, tmp_path: Path) -> None:
    measured = read_importance(GOLDEN / "pocket.imatrix.gguf")
    path = tmp_path / f"ours.{ending}"
    shuffled = {name: measured.entries[name] for name in reversed(measured.entries)}

    write_importance(path, shuffled, chunk_length=256, chunks=measured.chunks, datasets=[measured.text])

    assert path.read_bytes() == (GOLDEN / f"pocket.imatrix.{ending}").read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_experts_keep_their_counts_in_gguf(tmp_path: Path) -> None:
    found = read_importance(write(tmp_path / "i.gguf", {"b.weight": EXPERTS, "a.weight": PLAIN}, datasets=("x", "y")))

    assert (found.text, found.chunks, list(found.entries)) == ("x", 3, ["a.weight", "b.weight"])
    for name, entry in {"a.weight": PLAIN, "b.weight": EXPERTS}.items():
        assert np.array_equal(found.entries[name].sums, entry.sums)
        assert np.array_equal(found.entries[name].counts, entry.counts)


def test_the_older_form_keeps_means(tmp_path: Path) -> None:
    nothing = Importance(np.zeros(4, np.float32), np.zeros(1, np.float32))
    found = read_importance(
        write(tmp_path / "i.dat", {"b.weight": EXPERTS, "a.weight": PLAIN, "c.weight": nothing}, datasets=("x", "y"))
    )

    assert (found.text, found.chunks, list(found.entries)) == ("y", 3, ["a.weight", "b.weight"])
    experts = found.of("b.weight", (3, 8, 4))
    assert experts is not None
    np.testing.assert_allclose(experts.mean(0), EXPERTS.sums[:4] / 5, rtol=1e-6)
    assert np.array_equal(experts.mean(1), np.ones(4))
    np.testing.assert_allclose(experts.mean(2), EXPERTS.sums[8:] / 700, rtol=1e-6)


def test_calls_of_the_older_form_are_windows_rounded_up_so_that_none_is_zero(tmp_path: Path) -> None:
    few = Importance(PLAIN.sums, np.array([5], np.float32))
    found = read_importance(write(tmp_path / "i.dat", {"a.weight": PLAIN, "b.weight": few}))

    assert [found.entries[name].counts.tolist() for name in ("a.weight", "b.weight")] == [[3.0], [1.0]]
    np.testing.assert_allclose(found.entries["b.weight"].mean(0), PLAIN.sums / 5, rtol=1e-6)


def test_gguf_is_what_any_other_name_means_and_a_text_needs_no_name(tmp_path: Path) -> None:
    assert write(tmp_path / "imatrix", {"a.weight": PLAIN}, datasets=()).read_bytes()[:4] == b"GGUF"
    assert read_importance(tmp_path / "imatrix").text == ""
    assert read_importance(write(tmp_path / "i.dat", {"a.weight": PLAIN}, datasets=())).text == ""


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "no importance to write"),
        ({"a.weight": Importance(np.full(4, np.nan, np.float32), np.ones(1, np.float32))}, "'a.weight' holds NaN"),
        ({"a.weight": Importance(np.full(4, -1, np.float32), np.ones(1, np.float32))}, "negative"),
        ({"a.weight": Importance(np.ones(4, np.float32), np.full(1, np.inf, np.float32))}, "infinite"),
        ({"a.weight": Importance(np.ones(4, np.float32), np.ones(3, np.float32))}, "4 sums and 3 counts"),
    ],
)
@pytest.mark.parametrize("ending", ["gguf", "dat"])
def test_what_is_no_importance_is_not_written(
    entries: dict[str, Importance], message: str, ending: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / f"i.{ending}", entries)

    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a directory"):
        write(tmp_path, {"a.weight": PLAIN})


@pytest.mark.parametrize("ending", ["gguf", "dat"])
def test_what_was_there_stays_until_all_is_written(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"i.{ending}", {"a.weight": PLAIN})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, {"a.weight": PLAIN, "b.weight": EXPERTS})

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
