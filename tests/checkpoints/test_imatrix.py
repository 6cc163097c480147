"""Importance matrices: both forms that llama-imatrix writes, and everything that can be wrong with them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from fewbits.checkpoints.imatrix import read_importance
from fewbits.errors import CheckpointError
from references.imatrices import dat, write_imatrix

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = np.arange(1, 9, dtype=np.float32).reshape(2, 4)


def test_what_llama_imatrix_wrote_says_the_same_in_both_forms() -> None:
    new, old = (read_importance(GOLDEN / f"pocket.imatrix.{ending}") for ending in ("gguf", "dat"))
    assert (new.text, new.chunks) == (old.text, old.chunks) == ("manual.txt", 8)
    assert set(new.entries) == set(old.entries)
    assert len(new.entries) == 28
    for name, entry in new.entries.items():
        assert np.array_equal(entry.mean(0), old.entries[name].mean(0)), name
        assert entry.mean(0).std() > 0


def test_sums_over_counts_expert_by_expert(tmp_path: Path) -> None:
    path = write_imatrix(
        tmp_path / "i.gguf", {"a.weight": (ROWS, np.array([2, 0])), "b.weight": (ROWS[:1], np.array([4]))}
    )
    found = read_importance(path)
    # The text never reached the second expert: its columns count evenly.
    experts, single = found.of("a.weight", (2, 16, 4)), found.of("b.weight", (16, 4))
    assert experts is not None
    assert single is not None
    assert np.array_equal([experts.mean(0), experts.mean(1)], [[0.5, 1, 1.5, 2], [1, 1, 1, 1]])
    assert np.array_equal(single.mean(0), [0.25, 0.5, 0.75, 1])
    # Each row as it is, up to a power of two that brings its mean near one.
    assert np.array_equal([experts.row(0), experts.row(1)], [[0.25, 0.5, 0.75, 1], [0.5, 0.5, 0.5, 0.5]])
    assert np.array_equal(single.row(0), [0.25, 0.5, 0.75, 1])
    assert found.of("c.weight", (16, 4)) is None
    assert (found.text, found.chunks) == ("manual.txt", 3)


def test_the_older_form_divides_by_calls_and_may_end_early(tmp_path: Path) -> None:
    data = dat({"a.weight": (2, ROWS[0]), "b.weight": (0, ROWS[1])})
    (tmp_path / "i.dat").write_bytes(data)
    found = read_importance(tmp_path / "i.dat")
    assert np.array_equal(found.entries["a.weight"].mean(0), [0.5, 1, 1.5, 2])
    assert np.array_equal(found.entries["b.weight"].mean(0), ROWS[1])
    (tmp_path / "short.dat").write_bytes(data[: -8 - len("manual.txt")])
    assert read_importance(tmp_path / "short.dat").chunks == 0


def test_columns_that_nothing_reached_count_evenly(tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "i.gguf", {"a.weight": (np.zeros((1, 4)), np.array([5]))})
    assert np.array_equal(read_importance(path).entries["a.weight"].row(0), [1, 1, 1, 1])


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30, 3e38])
def test_no_column_counts_nothing_and_no_size_overflows(size: float, tmp_path: Path) -> None:
    values = np.array([[0, 0, 1, 1]], np.float32) * np.float32(size)
    path = write_imatrix(tmp_path / "i.gguf", {"a.weight": (values, np.array([1]))})
    rows = read_importance(path).entries["a.weight"].row(0)
    assert rows.dtype == np.float32
    assert 0.25 <= rows.mean() <= 1
    assert rows[:2] == pytest.approx(rows[2:].mean() / 2 * 2.0**-20, rel=1e-6)


@pytest.mark.parametrize("shape", [(16, 8), (2, 16, 4), (16, 2)])
def test_another_models_widths_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "i.gguf", {"a.weight": (ROWS[:1], np.array([4]))})
    with pytest.raises(CheckpointError, match=r"4 values for 'a\.weight'.*another model"):
        read_importance(path).of("a.weight", shape)


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [
        (np.full((1, 4), np.nan), np.ones(1), "NaN, infinite or negative"),
        (np.full((1, 4), np.inf), np.ones(1), "NaN, infinite or negative"),
        (np.full((1, 4), -1.0), np.ones(1), "NaN, infinite or negative"),
        (ROWS, np.ones(3), "8 sums and 3 counts"),
        (ROWS, np.array([np.nan, 1]), "counts for .* NaN or negative"),
        (ROWS, np.array([1, -1]), "counts for .* NaN or negative"),
    ],
)
def test_damaged_numbers(sums: np.ndarray, counts: np.ndarray, message: str, tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "i.gguf", {"a.weight": (sums, counts)})
    with pytest.raises(CheckpointError, match=message):
        read_importance(path)


WHOLE = dat({"a.weight": (2, ROWS[0]), "b.weight": (3, ROWS[1])})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\0\0", "truncated or damaged"),
        (b"hello, this is a text about something else", "no importance matrix"),
        (struct.pack("<i", -1) + WHOLE[4:], "no importance matrix"),
        (struct.pack("<i", 2**31 - 1) + WHOLE[4:], "no importance matrix"),
        (struct.pack("<i", 3) + WHOLE[4:], "damaged"),
        (WHOLE[:4] + struct.pack("<i", -5) + WHOLE[8:], "-5 bytes"),
        (WHOLE[:4] + struct.pack("<i", 2**30) + WHOLE[8:], "truncated or damaged"),
        (WHOLE[:8] + b"\xff\xfe" + WHOLE[10:], "UTF-8"),
        (WHOLE[:20] + struct.pack("<i", 0) + WHOLE[24:], "0 values"),
        (WHOLE[:20] + struct.pack("<i", 2**29) + WHOLE[24:], "truncated or damaged"),
        (WHOLE.replace(b"b.weight", b"a.weight"), "twice"),
        *((WHOLE[:end], "damaged") for end in range(5, len(WHOLE) - 18, 7)),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_importance(tmp_path / "i.dat")
    assert "i.dat" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_no_importance_matrix(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("a.weight", ROWS)
    writer.add_tensor("b.weight.in_sum2", ROWS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"'b\.weight' and no counts"):
        read_importance(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="directory"):
        read_importance(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_importance(tmp_path / "none")
