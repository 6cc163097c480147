"""What a model is trained on: files as samples, samples as tokens with labels, tokens as windows."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewbits.errors import FewbitsError, TrainingError
from fewbits.training.fitting.losses import IGNORED
from fewbits.training.material.data import MESSAGES, PAIRS, TEXT, read_samples
from fewbits.training.material.reading import MOST_HELD, Reading, read_material
from fewbits.training.material.windows import TokenBatches, Window, Windows, apart, packed
from fewbits.training.material.words import Example, Words

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


CHAT = [{"role": "user", "content": "What is a span?"}, {"role": "assistant", "content": "Columns fitted together."}]


class TestFiles:
    def test_texts(self, tmp_path: Path) -> None:
        found = read_samples(lines(tmp_path / "a.jsonl", {"text": "one", "id": 1}, "", {"text": "two\u2028three"}))

        assert (found.kind, found.fields) == (TEXT, ("text",))
        assert [sample.parts for sample in found.samples] == [(("", "one"),), (("", "two\u2028three"),)]
        assert found.samples[1].where.endswith("a.jsonl, line 3,")

    def test_a_field_by_name(self, tmp_path: Path) -> None:
        path = lines(tmp_path / "a.jsonl", {"body": "one", "text": "no"}, {"body": "two", "text": "no"})

        assert [sample.parts[0][1] for sample in read_samples(path, "body").samples] == ["one", "two"]

    def test_conversations(self, tmp_path: Path) -> None:
        old = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
        found = read_samples(lines(tmp_path / "a.jsonl", {"conversations": old}))

        assert found.kind == MESSAGES
        assert found.samples[0].parts == (("user", "Hello"), ("assistant", "Hi"))
        assert read_samples(lines(tmp_path / "b.jsonl", {"talk": CHAT}), "talk").kind == MESSAGES

    def test_pairs_and_a_list_and_a_text(self, tmp_path: Path) -> None:
        pair = {"prompt": "2+2=", "completion": "4"}

        assert read_samples(lines(tmp_path / "a.json", [pair, pair])).kind == PAIRS
        assert len(read_samples(lines(tmp_path / "b.json", pair, pair, pair))) == 3
        assert read_samples(lines(tmp_path / "c.txt", "{not: json}")).samples[0].parts == (("", "{not: json}"),)

    @pytest.mark.parametrize(
        ("rows", "field", "words"),
        [
            (({"text": "a"}, {"txt": "b", "id": 3}), None, ("line 2", "'text'", "'txt', 'id'")),
            (({"txt": "b"},), None, ("line 1", '"text"', "'txt'", "--field")),
            (({},), None, ("line 1", "none")),
            (({"text": "a"},), "body", ("line 1", "'body'", "'text'")),
            (({"text": "a"}, '{"text": '), None, ("line 2", "not valid JSON")),
            (({"text": "a"}, "[1]"), None, ("line 2", "no object")),
            (({"text": "a"}, {"text": 5}), None, ("line 2", "int", "text")),
            (({"messages": CHAT}, {"messages": "hello"}), None, ("line 2", "messages")),
            (({"messages": [{"role": "user"}]},), None, ("line 1", "without a role or without a text")),
            (({"messages": []},), None, ("line 1", "messages")),
            (({"prompt": "a"},), None, ("line 1", "'prompt'")),
            (("[" * 100_000,), None, ("line 1",)),
            (("",), None, ("empty",)),
        ],
    )
    def test_what_is_refused(self, rows: Any, field: Any, words: tuple[str, ...], tmp_path: Path) -> None:
        with pytest.raises(TrainingError) as refused:
            read_samples(lines(tmp_path / "a.jsonl", *rows), field)

        assert "\n" not in str(refused.value)
        for word in ("a.jsonl", *words):
            assert word in str(refused.value)

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "bad.jsonl").write_bytes(b'{"text": "\xff"}')
        for path, words in [
            (tmp_path / "none.jsonl", "no such file"),
            (tmp_path / "bad.jsonl", "byte 10"),
            (tmp_path / "a.parquet", ".jsonl"),
            (lines(tmp_path / "e.json", "[]"), "empty list"),
        ]:
            with pytest.raises(TrainingError, match=words):
                read_samples(path)
        (tmp_path / "folder.jsonl").mkdir()
        with pytest.raises(TrainingError, match="cannot be read"):
            read_samples(tmp_path / "folder.jsonl")
        with pytest.raises(TrainingError, match="no fields"):
            read_samples(lines(tmp_path / "t.txt", "words"), "text")

    @CALM
    @given(st.binary(max_size=300))
    def test_no_bytes_break_it(self, data: bytes) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.jsonl"
            path.write_bytes(data)
            with contextlib.suppress(TrainingError):
                read_samples(path)


@pytest.fixture(scope="module")
def words(pocket: Path) -> Words:
    return Words.of(pocket)


@pytest.fixture(scope="module")
def talking(pocket: Path) -> Words:
    return Words.of(pocket, "chatml")


def shown(words: Words, example: Example) -> str:
    """The text of what is learned."""
    return str(words.tokenizer.decode([int(label) for label in example.labels if label != IGNORED]))


class TestTokens:
    def test_a_text_is_learned_whole_with_its_end(self, words: Words, tmp_path: Path) -> None:
        example = words.examples(read_samples(lines(tmp_path / "a.jsonl", {"text": "The with statement"})))[0]

        assert words.tokenizer.decode(example.ids) == "The with statement<|endoftext|>"
        assert example.labels.tolist() == example.ids.tolist()
        assert example.learned == len(example.ids) - 1

    def test_of_a_pair_the_completion_is_learned(self, words: Words, tmp_path: Path) -> None:
        rows = [{"prompt": "The with", "completion": " statement wraps"}, {"prompt": "", "completion": "A module"}]
        first, second = words.examples(read_samples(lines(tmp_path / "a.jsonl", *rows)))

        assert words.tokenizer.decode(first.ids) == "The with statement wraps<|endoftext|>"
        assert shown(words, first) == " statement wraps<|endoftext|>"
        assert shown(words, second) == "A module<|endoftext|>"

    def test_of_a_conversation_the_answers_are_learned(self, talking: Words, tmp_path: Path) -> None:
        more = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "user", "content": "And a group?"}]
        more.append({"role": "assistant", "content": "Elements with one scale."})
        example = talking.examples(read_samples(lines(tmp_path / "a.jsonl", {"messages": more})))[0]

        assert "Be brief." in talking.tokenizer.decode(example.ids)
        first, second = (f"{more[n]['content']}<|im_end|>\n" for n in (2, 4))
        assert shown(talking, example) == first + second

    def test_every_template_learns_answers_alone(self, pocket: Path, tmp_path: Path) -> None:
        from fewbits.engine.conversation import TEMPLATES

        samples = read_samples(lines(tmp_path / "a.jsonl", {"messages": CHAT}))
        for name in TEMPLATES:
            words = Words.of(pocket, name)
            learned = shown(words, words.examples(samples)[0])
            assert "Columns fitted together." in learned, name
            assert "span" not in learned, name

    def test_a_model_without_a_template_is_not_guessed_at(self, words: Words, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="--template"):
            words.examples(read_samples(lines(tmp_path / "a.jsonl", {"messages": CHAT})))

    def test_conversations_that_cannot_be_learned(self, pocket: Path, talking: Words, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"line 1, has no message of the assistant"):
            talking.examples(read_samples(lines(tmp_path / "a.jsonl", {"messages": CHAT[:1]})))
        (tmp_path / "odd.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")
        with pytest.raises(TrainingError, match=r"line 1, is refused by the chat template \(no\)"):
            Words.of(pocket, str(tmp_path / "odd.jinja")).examples(
                read_samples(lines(tmp_path / "a.jsonl", {"messages": CHAT}))
            )
        (tmp_path / "turned.jinja").write_text(
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8"
        )
        with pytest.raises(TrainingError, match="where the last answer begins cannot be told"):
            Words.of(pocket, str(tmp_path / "turned.jinja")).examples(
                read_samples(lines(tmp_path / "a.jsonl", {"messages": CHAT}))
            )
        with pytest.raises(FewbitsError, match="no such chat template"):
            Words.of(pocket, "chatlm")

    def test_nothing_to_learn_names_the_line(self, words: Words, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"line 2, holds nothing to learn"):
            words.examples(read_samples(lines(tmp_path / "a.jsonl", {"text": "words"}, {"text": ""})))


def example(count: int, first: int = 0, learned_from: int = 0) -> Example:
    ids = np.arange(first, first + count)
    return Example(f"line {first},", ids, np.where(np.arange(count) >= learned_from, ids, IGNORED))


class TestWindows:
    @CALM
    @given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.integers(8, 20))
    def test_packing_loses_no_token_but_a_last_one_alone(self, sizes: list[int], length: int) -> None:
        starts = np.cumsum([0, *sizes]).tolist()
        examples = [example(size, first) for size, first in zip(sizes, starts, strict=False)]

        found = packed(examples, length)

        ids = np.concatenate([window.ids for window in found.windows])
        assert ids.tolist() == list(range(len(ids)))
        assert len(ids) >= sum(sizes) - 1
        assert all(len(window.ids) == length for window in found.windows[:-1])

    def test_what_is_too_long_is_refused_with_its_line(self) -> None:
        with pytest.raises(TrainingError, match=r"line 3, has 11 tokens, and a window has 8 \(1 of 2 are longer\)"):
            apart([example(5), example(11, 3)], 8, cut=False)

    def test_or_cut_and_said(self) -> None:
        found = apart([example(5), example(11, 3), example(12, 7, learned_from=9)], 8, cut=True)

        assert [len(window.ids) for window in found.windows] == [5, 8]
        assert len(found.notes) == 2
        assert "2 of 3 examples were cut at 8 tokens" in found.notes[0]
        assert "1 examples were left out" in found.notes[1]

    def test_rows_are_filled_and_what_fills_them_is_neither_seen_nor_learned(self) -> None:
        windows = Windows(tuple(Window(np.arange(n), np.arange(n)) for n in (3, 5, 4)))
        batch = TokenBatches(windows, 3, seed=0, pad=99).in_order()[0]

        filled = batch["input_ids"] == 99
        assert filled.sum(1).tolist() == [2, 0, 1]
        assert bool((batch["labels"][filled] == IGNORED).all())
        assert (batch["attention_mask"] == 0).tolist() == filled.tolist()

    def test_filling_changes_no_loss(self, pocket: Path) -> None:
        import torch

        from fewbits.evaluation.model_files import open_model
        from fewbits.training.fitting.losses import next_tokens
        from fewbits.training.material.windows import together

        network = open_model(pocket).load().network
        windows = [Window(np.arange(5, 5 + n), np.arange(5, 5 + n)) for n in (4, 9)]
        with torch.no_grad():
            both, count = next_tokens(network, together(windows, 1))
            alone = [next_tokens(network, together([window], 1)) for window in windows]

        assert count == sum(each for _, each in alone) == 11
        assert float(both) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-5)


class TestMaterial:
    def test_held_out_lines_are_not_learned(self, words: Words, tmp_path: Path) -> None:
        path = lines(tmp_path / "a.jsonl", *({"text": f"number {n} of many"} for n in range(40)))

        found = read_material(Reading(path, hold_out=0.1, packing=False, length=32), words, 0)
        again = read_material(Reading(path, hold_out=0.1, packing=False, length=32), words, 0)
        other = read_material(Reading(path, hold_out=0.1, packing=False, length=32), words, 1)

        assert (len(found.train), len(found.held)) == (36, 4)
        seen = {window.ids.tobytes() for window in found.train.windows}
        assert not any(window.ids.tobytes() in seen for window in found.held.windows)
        assert found.facts == again.facts
        assert found.facts["sha256"] != other.facts["sha256"]

    def test_a_text_alone_gives_its_end(self, words: Words, tmp_path: Path) -> None:
        path = lines(tmp_path / "a.txt", " ".join(f"word {n}" for n in range(2000)))

        found = read_material(Reading(path, length=64, hold_out=0.2), words, 0)

        assert len(found.held) == round(0.2 * (len(found.held) + len(found.train)))
        assert found.facts["packing"]

    def test_a_file_of_its_own(self, words: Words, tmp_path: Path) -> None:
        path = lines(tmp_path / "a.jsonl", *({"text": f"number {n}"} for n in range(5)))
        other = lines(tmp_path / "b.jsonl", *({"text": f"other {n}"} for n in range(100)))

        found = read_material(Reading(path, validation=other, packing=False), words, 0)

        assert (len(found.train), len(found.held)) == (5, MOST_HELD)
        assert "64 of 100" in found.notes[0]

    def test_one_line_holds_nothing_out_and_says_so(self, words: Words, tmp_path: Path) -> None:
        found = read_material(Reading(lines(tmp_path / "a.jsonl", {"text": "a few words"})), words, 0)

        assert len(found.held) == 0
        assert "--validation" in found.notes[0]

    @pytest.mark.parametrize(("length", "words_"), [(513, "512"), (4, "too short")])
    def test_windows_that_the_model_cannot_take(self, length: int, words_: str, words: Words, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=words_):
            read_material(Reading(lines(tmp_path / "a.txt", "words"), length=length), words, 0)
