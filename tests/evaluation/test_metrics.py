"""The figures against a slow reference written another way, and against analysis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.evaluation import metrics
from fewbits.evaluation.metrics import Tally, estimate, score_window, student_t_975
from references import metrics as slow


def _logits(tokens: int, vocabulary: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 60), st.floats(0.1, 30), st.integers(0, 2**31))
def test_a_window_equals_the_slow_reference(tokens: int, vocabulary: int, spread: float, seed: int) -> None:
    p, q = _logits(tokens, vocabulary, seed, spread), _logits(tokens, vocabulary, seed + 1, spread)
    targets = torch.arange(tokens) % vocabulary
    score = score_window(p, q, targets)
    for i in range(tokens):
        row_p, row_q, target = p[i].tolist(), q[i].tolist(), int(targets[i])
        assert score.loss_original[i] == pytest.approx(-slow.log_probabilities(row_p)[target], rel=1e-12, abs=1e-12)
        assert score.loss_quantized[i] == pytest.approx(-slow.log_probabilities(row_q)[target], rel=1e-12, abs=1e-12)
        assert score.kl[i] == pytest.approx(slow.kl_divergence(row_p, row_q), rel=1e-9, abs=1e-12)
    pairs = zip(p.tolist(), q.tolist(), strict=True)
    agreed = sum(row_p.index(max(row_p)) == row_q.index(max(row_q)) for row_p, row_q in pairs)
    assert score.agreed == agreed


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, targets = _logits(37, 50, 1), _logits(37, 50, 2), torch.arange(37)
    whole = score_window(p, q, targets)
    monkeypatch.setattr(metrics, "_SLAB_NUMBERS", 200)
    slabs = score_window(p, q, targets)
    assert np.array_equal(whole.kl, slabs.kl)
    assert np.array_equal(whole.loss_quantized, slabs.loss_quantized)
    assert whole.agreed == slabs.agreed


def test_equal_logits_cost_exactly_nothing() -> None:
    p = _logits(40, 333, 3)
    score = score_window(p, p.clone(), torch.zeros(40, dtype=torch.int64))
    assert score.kl.tolist() == [0.0] * 40
    assert score.agreed == 40


def test_direction_is_original_against_quantized() -> None:
    # P = (3/4, 1/4), Q = (1/2, 1/2): KL(P || Q) = 3/4 ln 3/2 + 1/4 ln 1/2, and KL(Q || P) is another number.
    p = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    q = torch.zeros(1, 2, dtype=torch.float64)
    score = score_window(p, q, torch.tensor([0]))
    assert score.kl[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    assert score.loss_original[0] == pytest.approx(math.log(4 / 3), rel=1e-12)


def test_a_small_disturbance_costs_half_its_variance() -> None:
    # KL(P || Q) = Var_P(d) / 2 + O(d^3) for logits that differ by d.
    p = _logits(20, 500, 4).double()
    d = _logits(20, 500, 5, 1e-3).double()
    score = score_window(p, p + d, torch.zeros(20, dtype=torch.int64))
    weights = p.softmax(dim=1)
    variance = (weights * d**2).sum(dim=1) - (weights * d).sum(dim=1) ** 2
    assert score.kl == pytest.approx(variance.numpy() / 2, rel=1e-2)


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    p = _logits(20, 100, 6).double()
    score = score_window(p, p + 7.0, torch.zeros(20, dtype=torch.int64))
    assert score.kl.max() < 1e-12
    assert score.agreed == 20


def test_a_tally_equals_the_slow_reference() -> None:
    tally = Tally()
    losses_p, losses_q, kl = [], [], []
    for seed in range(5):
        score = score_window(_logits(11, 30, seed), _logits(11, 30, seed + 50), torch.arange(11))
        tally.add(score)
        losses_p.append(score.loss_original.tolist())
        losses_q.append(score.loss_quantized.tolist())
        kl += score.kl.tolist()
    flat_p, flat_q = [x for w in losses_p for x in w], [x for w in losses_q for x in w]
    assert tally.tokens == 55
    expected = math.exp(math.fsum(flat_p) / 55), math.exp(math.fsum(flat_q) / 55)
    assert tally.perplexities() == pytest.approx(expected, rel=1e-12)
    for percent in (0, 50, 99, 99.9, 100):
        assert tally.kl_percentile(percent)[0] == pytest.approx(slow.percentile(kl, percent), rel=1e-12)
    pairs = [math.fsum(b) / 11 - math.fsum(a) / 11 for a, b in zip(losses_p, losses_q, strict=True)]
    mean, error = slow.mean_and_error(pairs)
    ratio = tally.perplexity_ratio()
    assert ratio.value == pytest.approx(math.exp(mean), rel=1e-12)
    assert ratio.low == pytest.approx(math.exp(mean - 2.776 * error), rel=1e-3)
    assert ratio.high == pytest.approx(math.exp(mean + 2.776 * error), rel=1e-3)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_an_estimate_equals_the_slow_reference(values: list[float]) -> None:
    mean, _ = slow.mean_and_error([*values, *values])
    result = estimate(values)
    assert result.value == pytest.approx(mean, rel=1e-9, abs=1e-9)
    assert result.low <= result.value <= result.high
    assert result.standard_error == pytest.approx(float(np.std(values, ddof=1)) / math.sqrt(len(values)), abs=1e-9)


def test_the_interval_holds_the_mean_95_times_in_100() -> None:
    draws = np.random.default_rng(7).standard_normal((4000, 4))
    held = sum(e.low <= 0 <= e.high for e in (estimate(row.tolist()) for row in draws))
    assert 0.94 < held / 4000 < 0.96


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (10**6, 1.96)],
)
def test_student_t_equals_the_printed_tables(freedom: int, expected: float) -> None:
    assert student_t_975(freedom) == pytest.approx(expected, rel=2e-3)


def test_a_ruined_model_still_has_a_number() -> None:
    p, q = torch.zeros(4, 10), torch.zeros(4, 10)
    q[:, 0] = -5000.0
    tally = Tally()
    tally.add(score_window(p, q, torch.zeros(4, dtype=torch.int64)))
    assert all(math.isfinite(x) for x in tally.perplexities())
