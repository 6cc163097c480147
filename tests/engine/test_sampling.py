"""The native choice of tokens: that of the slow reference, distributed as it should be, the same everywhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewbits.engine.sampling import Sampling, choose
from fewbits.errors import EngineError
from references import sampling as reference

NOTHING = np.empty(0, np.int32)
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def mask_of(allowed: list[bool]) -> np.ndarray:
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[bool] | None, reference.Settings]:
    size = draw(st.sampled_from([1, 2, 31, 32, 33, 64, 100, 257]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = (random.normal(size=size) * draw(st.sampled_from([0.1, 2.0, 30.0]))).astype(np.float32)
    if draw(st.booleans()):  # equal ones
        logits = np.round(logits)
    history = [int(t) for t in random.integers(-2, size + 3, draw(st.integers(0, 40)))]
    allowed = [bool(b) for b in random.random(size) < draw(st.sampled_from([0.05, 0.5, 0.97]))]
    allowed[int(random.integers(size))] = True
    chosen = reference.Settings(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        top_k=draw(st.sampled_from([0, 1, 2, 5, 40, 1000])),
        top_p=draw(st.sampled_from([1.0, 0.95, 0.5, 0.1])),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.8])),
        repetition_window=draw(st.sampled_from([0, 1, 8])),
        seed=draw(st.integers(0, 2**64 - 1)),
    )
    return logits, history, draw(st.sampled_from([None, allowed])), chosen


@settings(max_examples=150, deadline=None)
@example((np.zeros(64, np.float32), [], None, reference.Settings(temperature=0.3, top_k=40, top_p=0.1)))
@given(cases())
def test_every_choice_is_that_of_the_slow_reference(
    case: tuple[np.ndarray, list[int], list[bool] | None, reference.Settings],
) -> None:
    logits, history, allowed, chosen = case
    sampler = Sampling(**dataclasses.asdict(chosen)).sampler()
    mask = None if allowed is None else mask_of(allowed)

    ours = [choose(sampler, logits, np.array(history, np.int32), mask) for _ in range(4)]

    assert ours == [reference.choose(logits, history, allowed, chosen, draw) for draw in range(1, 5)]


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, 60),
        ({"temperature": 0.5}, 60),
        ({"top_k": 7}, 7),
        ({"top_p": 0.6}, None),
        ({"min_p": 0.2}, None),
        ({"top_k": 30, "top_p": 0.9, "min_p": 0.02, "temperature": 1.7}, None),
    ],
)
def test_tokens_are_distributed_as_their_probabilities(changed: dict[str, Any], kept: int | None) -> None:
    logits = np.random.default_rng(3).normal(size=60).astype(np.float32)
    chosen = Sampling(**{**OFF, **changed}, seed=11)
    sampler, draws = chosen.sampler(), 20_000

    counts = np.bincount([sampler.sample(logits, NOTHING, None) for _ in range(draws)], minlength=60)

    # The same filters in the plainest floats; a token that they remove never comes.
    order = np.argsort(-logits)
    scaled = (logits / chosen.temperature)[order].astype(np.float64)
    if chosen.top_k:
        scaled[chosen.top_k :] = -np.inf
    p = np.exp(scaled - scaled[0])
    before = np.cumsum(p) - p
    p[before >= chosen.top_p * p.sum()] = 0
    p[p < chosen.min_p * p[0]] = 0
    expected = draws * p / p.sum()
    live = expected > 0
    assert kept is None or live.sum() == kept
    assert counts[order][~live].sum() == 0
    # Chi-square over tokens that are expected often enough: its mean is the number of them, its deviation sqrt(2 n).
    often = expected > 10
    chi = ((counts[order][often] - expected[often]) ** 2 / expected[often]).sum()
    assert chi < often.sum() + 4 * np.sqrt(2 * often.sum())


EVERYWHERE = [
    ({"temperature": 1.5, "top_p": 0.9, "seed": 2026}, [867, 644, 210, 120, 76, 455, 840, 868]),
    (
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3, "seed": 7},
        [464, 262, 939, 838, 565, 333, 363, 535],
    ),
    ({"temperature": 3.0, "seed": 2**64 - 1}, [646, 705, 319, 29, 832, 56, 472, 774]),
]
"""The same cases are in native/selftest/sampler.cpp, which other processors run."""


@pytest.mark.parametrize(("changed", "tokens"), EVERYWHERE)
def test_a_seed_gives_these_tokens_on_every_machine(changed: dict[str, Any], tokens: list[int]) -> None:
    logits, history = (np.arange(1000, dtype=np.float32) * 37 % 101) / 16, [30, 71, 101]
    chosen = reference.Settings(**changed)
    sampler = Sampling(**dataclasses.asdict(chosen)).sampler()

    assert [reference.choose(logits, history, None, chosen, draw) for draw in range(1, 9)] == tokens
    assert [sampler.sample(logits, np.array(history, np.int32), None) for _ in tokens] == tokens


def test_seeds_next_to_each_other_have_nothing_in_common() -> None:
    logits = np.zeros(4096, np.float32)
    drawn = [
        [sampler.sample(logits, NOTHING, None) for _ in range(16)]
        for sampler in (Sampling(**OFF, seed=seed).sampler() for seed in range(8))
    ]

    assert (
        len({token for each in drawn for token in each}) > 110
    )  # of 128; equal streams or shifted ones would be 16 to 23


def test_greedy_takes_the_lowest_of_equals_and_needs_no_random_number() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)

    assert {choose(Sampling(temperature=0, seed=s).sampler(), logits, NOTHING) for s in range(5)} == {1}


def test_a_large_vocabulary_is_cut_back_on_the_way() -> None:
    logits = np.arange(100_000, dtype=np.float32)  # each token is better than all before
    chosen = Sampling(**{**OFF, "temperature": 100.0, "top_k": 3}, seed=1)

    seen = {chosen.sampler().sample(logits, NOTHING, None)} | {
        token for sampler in [chosen.sampler()] for token in (sampler.sample(logits, NOTHING, None) for _ in range(60))
    }

    assert seen == {99_997, 99_998, 99_999}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float, temperature: float) -> None:
    logits = np.zeros(100, np.float32)
    logits[70] = bad
    sampler = Sampling(temperature=temperature).sampler()

    with pytest.raises(EngineError, match="are no numbers"):
        choose(sampler, logits, NOTHING)

    others = mask_of([t != 70 for t in range(100)])
    assert choose(sampler, logits, NOTHING, others) != 70  # nobody asked for that one


def test_no_token_left_is_said() -> None:
    sampler = Sampling(seed=1).sampler()

    with pytest.raises(EngineError, match="no token of the model's vocabulary may come next"):
        choose(sampler, np.zeros(40, np.float32), NOTHING, np.zeros(2, np.uint32))
    with pytest.raises(EngineError, match="no token of the model's vocabulary may come next"):
        choose(sampler, np.full(40, -np.inf, np.float32), NOTHING)


def test_a_token_without_probability_never_comes() -> None:
    logits = np.array([0, -np.inf, 0, -200], np.float32)
    sampler = Sampling(**OFF, seed=5).sampler()

    assert {sampler.sample(logits, NOTHING, None) for _ in range(300)} == {0, 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 2),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("repetition_window", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", True),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(name: str, value: object) -> None:
    with pytest.raises(
        EngineError, match=rf"sampling: {name} is .+, and has to be a (whole )?number from .+ to .+: .+\.$"
    ):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_the_native_sampler_refuses_what_means_nothing() -> None:
    from fewbits.kernels.module import native_module

    sound = Sampling(seed=1).to_json()
    for name, value in [("top_p", 0.0), ("temperature", float("nan")), ("top_k", -1), ("repetition_penalty", 0.0)]:
        with pytest.raises(ValueError, match="out of range"):
            native_module().Sampler(**{**sound, name: value})
    with pytest.raises(ValueError, match="one bit per token"):
        Sampling().sampler().sample(np.zeros(33, np.float32), NOTHING, np.zeros(1, np.uint32))


def test_a_seed_that_is_not_given_is_another_one_each_time() -> None:
    assert len({Sampling().seed for _ in range(5)}) > 1
