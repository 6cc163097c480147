"""How unlike texts are: the figures of slow formulas, and verdicts on texts that are known to be alike or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.calibration import Seen, read_calibration, tokens_report, unlikeness
from fewbits.calibration.mix import default_mix
from fewbits.errors import CalibrationError
from fewbits.evaluation.model_files import open_model
from references import unlikeness as slow

SIZE = 40
IDS = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(one=IDS, other=IDS)
def test_the_figures_are_those_of_the_slow_formulas(one: list[int], other: list[int]) -> None:
    found = unlikeness(Seen(one), Seen(other), SIZE).tokens

    assert found.tokens == len(other)
    assert found.unseen == pytest.approx(slow.unseen(other, one))
    assert found.js_bits == pytest.approx(slow.jensen_shannon(one, other), abs=1e-12)
    assert found.kl_bits == pytest.approx(slow.smoothed_kl(other, one, SIZE), abs=1e-12)
    assert 0 <= found.js_bits <= 1
    assert 0 <= found.js_bits_by_chance <= 1


def zipf(windows: int, seed: int, *, shift: int = 0) -> npt.NDArray[np.int64]:
    """Windows of ids as unevenly distributed as words are, over a vocabulary of 2000."""
    ids = np.random.default_rng(seed).zipf(1.3, windows * 256) % 1500 + shift
    return ids.reshape(windows, 256)


@pytest.mark.parametrize(("windows", "wanted"), [(64, 64), (64, 8), (8, 64), (4, 4)])
def test_draws_from_one_source_are_alike_however_few(windows: int, wanted: int) -> None:
    found = unlikeness(Seen(zipf(windows, 1)), Seen(zipf(wanted, 2)), 2000)

    assert not found.far
    assert found.tokens.js_bits == pytest.approx(found.tokens.js_bits_by_chance, rel=0.3)
    assert found.sentences()[0].startswith("The calibration text is like the target: ")


def test_other_words_are_unlike_and_so_are_groups_that_have_them() -> None:
    groups = {"north": Seen(zipf(8, 3)), "south": Seen(zipf(8, 4, shift=300))}
    alike = unlikeness(Seen(zipf(32, 1)), Seen(zipf(32, 2)), 2000, groups=groups)
    unlike = unlikeness(Seen(zipf(32, 1)), groups["south"], 2000)

    assert unlike.far
    assert "is unlike the target, so calibrate on text of the target's kind: " in unlike.sentences()[0]
    assert alike.far
    assert [name for name, group in alike.groups.items() if group.far] == ["south"]
    assert alike.sentences()[0].startswith("The calibration text is like the target")
    assert alike.sentences()[1].startswith("The calibration text is unlike group south: ")
    assert len(alike.sentences()) == 2


def test_the_same_text_in_another_language_of_words_is_told_by_a_real_tokenizer(pocket: Path) -> None:
    vocabulary = open_model(pocket).vocabulary()
    manual, code, *_ = default_mix(65_536, 0)
    texts = [document for source in manual.sources for document in source.documents]
    one, other = (read_calibration(texts[i::2], vocabulary, length=256, windows=60, seed=i).windows for i in range(2))
    modules = [document for source in code.sources for document in source.documents]
    sources = read_calibration(modules, vocabulary, length=256, windows=60).windows

    assert not unlikeness(Seen(one), Seen(other), vocabulary.size).far
    assert unlikeness(Seen(one), Seen(sources), vocabulary.size).far


def test_inputs_are_compared_site_by_site() -> None:
    text = zipf(32, 1)
    squares = {"a": [1.0, 2.0, 3.0, 0.0], "b": [1.0, 1.0, 1.0, 1.0], "c": [0.0, 0.0, 0.0, 0.0]}
    others = {"a": [2.0, 4.0, 6.0, 0.0], "b": [8.0, 0.0, 0.0, 0.0], "c": [0.0, 0.0, 0.0, 0.0], "d": [1.0]}
    found = unlikeness(Seen(text, squares), Seen(text, others), 2000)

    assert list(found.sites) == ["a", "b", "c"]
    assert (found.sites["a"].cosine, found.sites["a"].ratio) == pytest.approx((1.0, 2.0))
    assert (found.sites["b"].cosine, found.sites["b"].ratio) == pytest.approx((0.5, 2.0))
    assert found.sites["c"].cosine == 1.0
    assert not found.far
    assert "least alike at b, with a cosine of 0.500" in found.sentences()[0]
    turned = {name: values[::-1] for name, values in others.items()}
    assert unlikeness(Seen(text, squares), Seen(text, turned), 2000).far


def test_the_report_is_plain_data() -> None:
    found = unlikeness(Seen(zipf(4, 1), {"a": [1.0]}), Seen(zipf(4, 2), {"a": [2.0]}), 2000, groups={"x": Seen([5])})
    data = json.loads(json.dumps(found.to_json()))

    assert set(data) == {"far", "tokens", "sites", "groups"}
    assert data["tokens"]["js_bits"] == found.tokens.js_bits
    assert data["sites"] == {"a": {"cosine": 1.0, "ratio": 2.0}}
    nothing = unlikeness(Seen([1], {"a": [0.0]}), Seen([1], {"a": [1.0]}), 2000)
    assert nothing.to_json()["sites"] == {"a": {"cosine": 0.0, "ratio": None}}
    assert data["groups"]["x"]["tokens"]["tokens"] == 1


def test_chance_is_dealt_from_the_seed() -> None:
    one, two, other = (
        unlikeness(Seen(zipf(4, 1)), Seen(zipf(4, 2)), 2000, seed=seed).tokens.js_bits_by_chance for seed in (1, 1, 2)
    )

    assert one == two != other


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (Seen([]), Seen([1]), "without tokens"),
        (Seen([1]), Seen(np.empty((0, 8))), "without tokens"),
        (Seen([1]), Seen([SIZE]), "outside of the vocabulary of 40"),
        (Seen([-1]), Seen([1]), "outside of the vocabulary"),
        (Seen([1], {"a": [1.0]}), Seen([1], {"a": [1.0, 2.0]}), "a has 2 columns in one text and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(one: Seen, other: Seen, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        unlikeness(one, other, SIZE)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ([4096], None),
        ([4095], "s: 4,095 tokens reached it; 4,096 wanted."),
        ([0], "s: no token reached it; 4,096 wanted."),
        ([5000, 612], "s: 612 tokens reached expert 1; 4,096 wanted."),
        ([1, 612, 9999], "s: 1 token reached expert 0; 4,096 wanted, and 1 more of 3 experts had fewer."),
        ([0, 9, 0], "s: no token reached expert 0; 4,096 wanted, and 2 more of 3 experts had fewer."),
    ],
)
def test_too_few_tokens_are_said(counts: list[int], sentence: str | None) -> None:
    assert tokens_report({"s": counts, "enough": [10_000]}) == ((sentence,) if sentence else ())


def test_how_many_are_wanted_can_be_chosen() -> None:
    assert tokens_report({"s": [99]}, wanted=99) == ()
    assert tokens_report({"s": [98]}, wanted=99) == ("s: 98 tokens reached it; 99 wanted.",)
