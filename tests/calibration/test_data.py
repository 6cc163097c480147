"""Calibration text becomes windows: nothing lost, nothing twice, from all over the text, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fewbits.calibration import read_calibration
from fewbits.calibration.documents import from_row
from fewbits.calibration.packing import token_stream
from fewbits.errors import CalibrationError
from fewbits.evaluation.model_files import open_model
from references.words import Words

COUNT = 40_000


def numbers(first: int, last: int) -> str:
    return " ".join(map(str, range(first, last)))


def test_windows_are_the_text_cut_without_padding() -> None:
    tokenizer = Words()

    data = read_calibration([numbers(0, 100)], tokenizer, length=10, windows=10)

    text = np.array(tokenizer.encode(numbers(0, 100))).reshape(10, 10)
    assert data.windows.dtype == np.int64
    assert sorted(map(tuple, data.windows)) == sorted(map(tuple, text))
    assert data.notes == ()


def test_start_tokens_stand_before_documents_and_at_the_head_of_windows() -> None:
    data = read_calibration([numbers(0, 5), numbers(5, 12)], Words(start_token=1), length=14, windows=1)

    [window] = data.windows.tolist()
    assert window[0] == 1
    assert [i for i, token in enumerate(window) if token == 1] == [0, 6]


def test_end_tokens_part_documents_where_no_start_token_does() -> None:
    data = read_calibration([numbers(0, 4), numbers(4, 8), " \n"], Words(end_token=2), length=10, windows=1)

    assert [i for i, token in enumerate(data.windows[0]) if token == 2] == [4, 9]


def test_a_start_token_that_a_template_wrote_is_not_doubled() -> None:
    ids = token_stream(["<start> a b", "c", "d <start>"], Words(start_token=3))

    assert ids.tolist() == [3, 12, 13, 3, 14, 3, 15, 3]


def test_every_window_begins_with_the_start_token_and_none_without_one() -> None:
    text = [numbers(0, 200)]
    with_start, without = (read_calibration(text, Words(start_token=t), length=10, windows=20) for t in (1, None))

    assert (with_start.windows == 1).sum(1).tolist() == [1] * 20
    assert (with_start.windows[:, 0] == 1).all()
    assert not (without.windows == 1).any()


def test_conversations_go_through_the_chat_template(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": numbers(0, 4)}, {"role": "assistant", "content": numbers(4, 9)}]},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": [{"text": "y"}, {"image": 1}]}]},
        {"text": "plain words"},
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    tokenizer = Words(chat=True)

    data = read_calibration(path, tokenizer, length=8, windows=9)

    words = {token: word for word, token in tokenizer.ids.items()}
    assert data.notes == ("9 windows of 8 tokens were wanted and the text holds 2; more of it would help",)
    assert {"<turn>", "user"} <= {words[token] for token in data.windows.ravel().tolist()}
    said = f"user {numbers(0, 4)} assistant {numbers(4, 9)} x y plain words"
    assert list(tokenizer.ids)[2:] == said.split()


def test_conversations_without_a_template_are_taken_as_text_and_that_is_said() -> None:
    turns = [{"role": "user", "content": numbers(0, 9)}]

    data = read_calibration([{"messages": turns}, {"messages": turns}], Words(), length=9, windows=1)

    assert data.notes == ("the tokenizer has no chat template, so 2 conversations were taken as plain text",)


def test_special_tokens_in_a_text_become_their_ids(pocket: Path) -> None:
    vocabulary = open_model(pocket).vocabulary()
    end = vocabulary.encode("<|endoftext|>")

    data = read_calibration(["a b c <|endoftext|>" * 8], vocabulary, length=8, windows=4)

    assert len(end) == 1
    assert (data.windows == end[0]).sum() >= 4


def test_windows_come_from_all_over_the_text_and_so_does_any_beginning() -> None:
    tokenizer = Words()
    tokenizer.encode(numbers(0, COUNT))  # so that ids tell places

    data = read_calibration([numbers(0, COUNT)], tokenizer, length=10, windows=40)

    assert len(data.windows) == 40
    for some, gap in ((data.windows, 0.1), (data.windows[:10], 0.3)):
        places = np.sort(some[:, 0]) / COUNT
        assert np.diff([0, *places, 1]).max() < gap


def test_the_same_seed_gives_the_same_windows_and_another_one_others() -> None:
    text = [numbers(0, 5_000)]
    one, two, other = (read_calibration(text, Words(), length=8, windows=50, seed=seed) for seed in (4, 4, 5))

    assert (one.windows == two.windows).all()
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint["sha256"] != other.fingerprint["sha256"]


def test_the_fingerprint_says_what_was_read(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.md"
    one.write_text(numbers(0, 30), encoding="utf-8")
    two.write_bytes(b"\xef\xbb\xbf" + numbers(30, 50).encode())
    tokenizer = Words()

    data = read_calibration([one, two], tokenizer, length=10, windows=5, seed=2)

    print_ = data.fingerprint
    assert json.loads(json.dumps(print_)) == print_
    assert print_["sha256"] == hashlib.sha256(data.windows.astype("<i8").tobytes()).hexdigest()
    assert {key: print_[key] for key in ("tokens", "windows", "length", "seed")} == {
        "tokens": 50,
        "windows": 5,
        "length": 10,
        "seed": 2,
    }
    assert print_["parts"][0]["sources"] == [
        {"name": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in (one, two)
    ]
    assert "\ufeff30" not in tokenizer.ids


def test_a_directory_of_texts_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, first in {"b/2.txt": 20, "a/1.rst": 10, "3.md": 30, ".hidden.txt": 900, "picture.png": 900}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(numbers(first, first + 10), encoding="utf-8")
    tokenizer = Words()

    read_calibration(tmp_path, tokenizer, length=10, windows=3)

    assert list(tokenizer.ids)[2:] == [*numbers(30, 40).split(), *numbers(10, 30).split()]


def test_of_a_data_set_the_rows_of_the_training_split_are_read(tmp_path: Path) -> None:
    files = {
        "README.md": "about this",
        "train/dataset_info.json": "{}",
        "train/data.json": json.dumps([{"text": numbers(0, 10)}, {"text": numbers(10, 20)}]),
        "test/data.jsonl": json.dumps({"text": numbers(90, 99)}),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    tokenizer = Words()

    data = read_calibration(tmp_path, tokenizer, length=10, windows=2)

    assert list(tokenizer.ids)[2:] == numbers(0, 20).split()
    assert data.notes == (f"{tmp_path}: of 2 files, the 1 of the training split were read",)


class Table:
    """What is used of a table of pyarrow."""

    column_names = ("text", "label")

    def select(self, names: list[str]) -> Table:
        assert names == ["text"]
        return self

    def to_pylist(self) -> list[dict[str, str]]:
        return [{"text": numbers(0, 8)}, {"text": numbers(8, 16)}]


def test_parquet_goes_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow, parquet = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    modules: Any = arrow, parquet
    modules[0].BufferReader, modules[0].ArrowException, modules[0].parquet = bytes, ValueError, parquet
    modules[1].read_table = lambda data: Table()
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")

    data = read_calibration(tmp_path / "rows.parquet", Words(), length=8, windows=2)

    assert len(data.windows) == 2


def test_without_pyarrow_parquet_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")

    with pytest.raises(CalibrationError, match=r"rows\.parquet: reading \.parquet needs pyarrow.*fewbits\[data\]"):
        read_calibration(tmp_path / "rows.parquet", Words())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", r"empty\.txt: the calibration text is empty"),
        ("blank.txt", b" \n\n\t", r"blank\.txt: the calibration text is empty"),
        ("short.txt", b"one two three", r"short\.txt: too short to calibrate on: 3 tokens, and one window needs 8"),
        ("latin.txt", "caf\u00e9 au lait".encode("latin-1"), r"latin\.txt: not UTF-8 text \(byte 3\)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a\.jsonl, line 2, is not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', r"a\.jsonl, line 3, is no object"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', r"line 2, has neither \"text\".*but 'txt'"),
        ("a.jsonl", b"{}", r"line 1, has neither .*but no field at all"),
        ("a.jsonl", b'{"text": 3}', r"line 1, has a \"text\" that is no string"),
        ("a.jsonl", b'{"messages": "hello"}', r"line 1, has a conversation that is no list"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', r"line 1, has a message without a role or without content"),
        ("a.jsonl", b'{"messages": [7]}', r"line 1, has a message without a role"),
        ("a.jsonl", b"[" * 100_000, r"line 1, nests deeper"),
        ("a.jsonl", b"\xff", r"a\.jsonl: not UTF-8"),
        ("a.json", b'[{"text": "a"}', r"a\.json is not valid JSON"),
        ("a.json", b'[{"text": "a"}, 5]', r"a\.json, row 1, is no object"),
        ("a.json", b"[" * 100_000, r"a\.json nests deeper"),
        ("a.jsonl", b"", r"a\.jsonl: the calibration text is empty"),
        ("a.jsonl", b'{"text": ""}', r"a\.jsonl: the calibration text is empty"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_in_one_sentence(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CalibrationError, match=message) as caught:
        read_calibration(tmp_path / name, Words(), length=8)

    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"PNG")

    with pytest.raises(CalibrationError, match="none: there is no such file"):
        read_calibration(tmp_path / "none", Words())
    with pytest.raises(CalibrationError, match=r"holds no file that can be read.*\.txt.*\.parquet"):
        read_calibration(tmp_path, Words())


def test_lists_that_are_not_meant_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("words", encoding="utf-8")

    with pytest.raises(CalibrationError, match=r"name of a file .*pathlib\.Path"):
        read_calibration([str(file)], Words())
    with pytest.raises(CalibrationError, match="not as both"):
        read_calibration([file, "words"], Words())
    with pytest.raises(CalibrationError, match="the texts given: the calibration text is empty"):
        read_calibration([], Words())
    with pytest.raises(CalibrationError, match=r"the texts given, item 1, is no object"):
        read_calibration(["words", 5], Words())
    with pytest.raises(CalibrationError, match="the 2 calibration texts: too short"):
        read_calibration([file, file], Words())


@pytest.mark.parametrize(("length", "windows", "message"), [(7, 1, "windows of 7 tokens"), (8, 0, "0 windows")])
def test_sizes_that_measure_nothing_are_refused(length: int, windows: int, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_calibration([numbers(0, 99)], Words(), length=length, windows=windows)


def test_what_a_row_says_twice_is_read_once() -> None:
    assert from_row("row 0", {"messages": None, "text": "words", "conversations": []}) == "words"
