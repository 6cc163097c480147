"""`compare` end to end on the embedded model: nothing lost, known losses, and the same answer however it is asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fewbits.evaluation.compare import compare
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.text import cut_windows
from references import metrics as slow
from references.gguf_files import Floats, write_gguf

KEYS = {
    "perplexity_original",
    "perplexity_quantized",
    "kl_divergence_mean",
    "kl_divergence_p99",
    "top1_agreement",
    "tokens",
    "bytes_original",
    "bytes_quantized",
    "bits_per_weight",
}


def test_a_model_against_itself_costs_exactly_nothing(pocket: Path, topics: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = compare(
        pocket,
        pocket,
        text=topics,
        context=128,
        max_tokens=600,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.kl_divergence_mean == result.kl_divergence_max == 0.0
    assert result.top1_agreement == 1.0
    assert result.perplexity_ratio.value == 1.0
    assert result.perplexity_original == result.perplexity_quantized
    assert (result.windows, result.tokens) == (4, 4 * 63)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_f16_file_costs_next_to_nothing(pocket: Path, pocket_f16: Path, topics: Path) -> None:
    result = compare(pocket, pocket_f16, text=topics, context=128, max_tokens=600)
    assert result.kl_divergence_max < 1e-6
    assert result.top1_agreement == 1.0
    assert result.bytes_quantized == pocket_f16.stat().st_size
    assert result.bytes_original == (pocket / "model.safetensors").stat().st_size
    assert result.bits_per_weight == pytest.approx(16, abs=0.01)


def test_a_planted_change_costs_what_analysis_says(pocket: Path, topics: Path, tmp_path: Path) -> None:
    # A final norm 10% larger makes every logit 10% larger, so Q = softmax(1.1 l) where P = softmax(l).
    def scale(tensors: dict[str, Floats]) -> None:
        tensors["output_norm.weight"] = tensors["output_norm.weight"] * np.float32(1.1)

    target = write_gguf(pocket, tmp_path / "scaled.gguf", kind="F32", edit=scale)
    result = compare(pocket, target, text=topics, context=64, max_tokens=128)
    model, vocabulary = open_model(pocket).load(), open_model(pocket).vocabulary()
    windows = cut_windows(vocabulary.encode(topics.read_text()), 64, None)[:2]
    kl, losses_p, losses_q = [], [], []
    with torch.inference_mode():
        for window in windows:
            for at, row in enumerate(model.logits(torch.from_numpy(window)).double().tolist()[32:63], start=33):
                larger = [1.1 * x for x in row]
                kl.append(slow.kl_divergence(row, larger))
                losses_p.append(-slow.log_probabilities(row)[window[at]])
                losses_q.append(-slow.log_probabilities(larger)[window[at]])
    assert result.tokens == len(kl)
    assert result.kl_divergence_mean == pytest.approx(math.fsum(kl) / len(kl), rel=1e-4)
    assert result.kl_divergence_p99 == pytest.approx(slow.percentile(kl, 99), rel=1e-4)
    assert result.perplexity_original == pytest.approx(math.exp(math.fsum(losses_p) / len(kl)), rel=1e-5)
    assert result.perplexity_quantized == pytest.approx(math.exp(math.fsum(losses_q) / len(kl)), rel=1e-5)
    assert result.top1_agreement == 1.0


def test_fewer_bits_cost_more_and_a_wrong_permutation_costs_most(pocket: Path, topics: Path, tmp_path: Path) -> None:
    files = [write_gguf(pocket, tmp_path / f"{kind}.gguf", kind=kind) for kind in ("Q8_0", "Q5_0", "Q4_0")]
    files.append(write_gguf(pocket, tmp_path / "wrong.gguf", interleave=False))
    results = [compare(pocket, f, text=topics, context=128, max_tokens=1024) for f in files]
    costs = [r.kl_divergence_mean for r in results]
    assert costs == sorted(costs)
    assert costs[0] < 1e-3
    assert costs[-1] > 0.5
    assert results[-1].kl_divergence.low > results[-2].kl_divergence.high


def test_an_original_in_gguf_reads_the_same_tokens(
    pocket: Path, pocket_f16: Path, topics: Path, tmp_path: Path
) -> None:
    q4 = write_gguf(pocket, tmp_path / "q4.gguf", kind="Q4_0")
    from_directory = compare(pocket, q4, text=topics, context=128, max_tokens=600)
    from_gguf = compare(pocket_f16, q4, text=topics, context=128, max_tokens=600)
    assert from_gguf.kl_divergence_mean == pytest.approx(from_directory.kl_divergence_mean, rel=1e-3)
    assert from_gguf.perplexity_quantized == from_directory.perplexity_quantized


def test_a_start_token_heads_every_window(pocket: Path, topics: Path, tmp_path: Path) -> None:
    asks = write_gguf(pocket, tmp_path / "asks.gguf", metadata={"tokenizer.ggml.add_bos_token": True})
    result = compare(asks, asks, text=topics, context=64, max_tokens=256)
    assert "start token 0 at the head of each" in result.protocol
    without = compare(pocket, pocket, text=topics, context=64, max_tokens=256)
    assert result.windows == without.windows
    assert result.perplexity_original != without.perplexity_original


def test_a_context_beyond_the_model_is_shrunk_and_said(pocket: Path, topics: Path) -> None:
    result = compare(pocket, pocket, text=topics, context=4096, max_tokens=1024)
    assert result.context == 512
    assert result.notes == (f"The context was shrunk from 4096 to 512 tokens, the limit of {pocket}.",)


def test_the_number_of_threads_is_put_back(pocket: Path, topics: Path) -> None:
    before = torch.get_num_threads()
    compare(pocket, pocket, text=topics, context=64, max_tokens=128, threads=1)
    assert torch.get_num_threads() == before


def test_json_has_every_figure(pocket: Path, pocket_f16: Path, topics: Path) -> None:
    data = compare(pocket, pocket_f16, text=topics, context=64, max_tokens=256).to_json()
    assert set(data) >= KEYS
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    low, high = data["perplexity_ratio_interval_95"]
    assert low <= data["perplexity_ratio"] <= high
    assert data["dtype"] == "float32"
    assert "second half" in data["protocol"]
