"""Every expert of a model is solved by what reached it, and by what all of its layer share where little did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fewbits
from fewbits import formats
from fewbits.calibrated.experts import Pool, blended, pools_of
from fewbits.calibration.stats import Hessian
from fewbits.calibration.walk import Measured
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.imatrix import read_importance
from fewbits.errors import CalibrationError
from fewbits.methods.gptq import GPTQ, objective
from references.expert_models import write_experts
from references.hessians import hessian_of, weights
from references.stored_files import stored_bytes

TEXT = {"windows": 12, "sequence_length": 32}


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def experts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experts(tmp_path_factory.mktemp("experts") / "model", request.param)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experts(tmp_path_factory.mktemp("mixtral") / "model")


def hessian(x: torch.Tensor) -> Hessian:
    found = Hessian(x.shape[1])
    found.update(x)
    return found


def drawn(tokens: int, cols: int = 48, seed: int = 0) -> torch.Tensor:
    """Tokens of one kind: columns depend on each other, in the same way for every seed."""
    root = torch.linalg.cholesky(hessian_of(cols, 5) + 1e-3 * torch.eye(cols))
    return torch.randn(tokens, cols, generator=torch.Generator().manual_seed(seed)) @ root.T


def measured(**tokens: torch.Tensor) -> Measured:
    hessians = {name: hessian(x) for name, x in tokens.items() if len(x)}
    return Measured(hessians, {name: (name,) for name in tokens})


def site(number: int, part: str = "gate_proj") -> str:
    return f"mlp.experts.{number}.{part}"


def test_a_pool_is_the_mean_over_all_tokens() -> None:
    x, y = drawn(30, seed=1), 2 * drawn(10, seed=2)

    pools = pools_of(measured(**{site(0): x, site(1): y, "self_attn.q_proj": x}))

    assert list(pools) == ["mlp.experts.*.gate_proj"]
    both = torch.cat([x, y]).double()
    torch.testing.assert_close(
        pools["mlp.experts.*.gate_proj"].mean, (both.T @ both / 40).float(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("tokens", [0, 1, 10, 1000])
def test_a_pool_says_how_columns_go_together_and_the_expert_how_large_they_are(tokens: int) -> None:
    pool = Pool(hessian_of(48, 5))
    own = hessian(3 * drawn(tokens)) if tokens else None
    share = tokens / (tokens + 48)

    found = pool.with_own(own, 48).double()

    energy = (1 - share) * pool.mean.diagonal().double() + (share * own.value.diagonal().double() if own else 0)
    scale = energy.sqrt()
    correlation = pool.mean.double() / pool.mean.diagonal().double().sqrt().outer(pool.mean.diagonal().double().sqrt())
    expected = (1 - share) * correlation * scale[:, None] * scale
    torch.testing.assert_close(found, expected + (share * own.value.double() if own else 0), rtol=1e-4, atol=1e-4)


def test_columns_behind_the_middle_of_an_expert_are_its_own() -> None:
    """Another expert's middle says nothing of how its columns go together."""
    found = measured(**{site(0, "down_proj"): drawn(20), site(1, "down_proj"): drawn(0)})
    pools = pools_of(found)

    alone = blended(found, pools, site(1, "down_proj"), 48)
    some = blended(found, pools, site(0, "down_proj"), 48)

    assert torch.equal(alone, alone.diagonal().diag())
    assert alone.diagonal().unique().numel() == 1
    own = hessian(drawn(20)).value
    torch.testing.assert_close(some - some.diagonal().diag(), (own - own.diagonal().diag()) * 20 / 68)


def test_few_tokens_choose_better_codes_with_the_pool() -> None:
    """What is meant is the error on all that the expert will ever see."""
    truth = hessian(drawn(20_000, seed=9)).value
    w, format, few = weights(32, 48), formats.get("int3_g48_sym"), hessian(drawn(24, seed=3))
    pool = Pool(hessian(drawn(3_000, seed=4)).value)

    alone, together = (
        objective(w, GPTQ().solve(w, format, {"hessian": h}), truth).sum() for h in (few.value, pool.with_own(few, 48))
    )

    assert together < 0.9 * alone


def test_what_no_expert_was_sent_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"mlp\.experts\.\*\.gate_proj"):
        pools_of(measured(**{site(0): drawn(0)}))


def quantized(source: Path, output: Path, **options: Any) -> Any:
    return fewbits.quantize(source, output, **{"to": "Q4_0", "method": "gptq", **TEXT, **options})


def test_every_expert_gets_codes_of_its_own(experts: Path, tmp_path: Path) -> None:
    record = quantized(experts, tmp_path / "solved.gguf")
    fewbits.quantize(experts, tmp_path / "plain.gguf", to="Q4_0")

    solved, plain = (GGUFReader(tmp_path / f"{name}.gguf") for name in ("solved", "plain"))
    stacks = [name for name in solved.names() if "_exps" in name]
    assert len(stacks) == 6
    for name in stacks:
        one, other = (r.read(name) for r in (solved, plain))
        assert one.shape == other.shape
        rows = one.buffer.reshape(one.shape[0], -1), other.buffer.reshape(one.shape[0], -1)
        assert all((a != b).any() for a, b in zip(*rows, strict=True)), name
    found = {t.planned.name: t for t in record.tensors}
    assert sum(found[name].output_error < found[name].output_error_plain for name in stacks) >= 5
    assert any("reached expert" in note for note in record.calibration.notes)


def test_the_same_whatever_the_threads_the_container_and_the_source(mixtral: Path, tmp_path: Path) -> None:
    fewbits.quantize(mixtral, tmp_path / "source.gguf", to="BF16")
    quantized(mixtral, tmp_path / "one.gguf", threads=1)
    quantized(mixtral, tmp_path / "two.gguf", threads=3)
    quantized(tmp_path / "source.gguf", tmp_path / "again.gguf")

    one, two, again = (stored_bytes(tmp_path / f"{name}.gguf") for name in ("one", "two", "again"))
    assert one == two == again


def test_in_a_directory_experts_stay_listed(mixtral: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The experts of a layer answer in turn, and what they say is weighed and added up. " * 40)

    found = {}
    for method in ("gptq", "nearest"):
        quantized(mixtral, tmp_path / method, to="int3_g32_asym_f16", method=method, windows=48)
        found[method] = fewbits.compare(mixtral, tmp_path / method, text=text, context=64).kl_divergence_mean

    assert 0 < found["gptq"] < found["nearest"]


def test_an_importance_matrix_counts_the_tokens_of_each_expert(mixtral: Path, tmp_path: Path) -> None:
    quantized(mixtral, tmp_path / "o.gguf", write_importance=tmp_path / "kept.gguf")

    found = read_importance(tmp_path / "kept.gguf").entries
    counts = found["blk.0.ffn_up_exps.weight"].counts
    assert counts.shape == (4,)
    assert counts.sum() == 2 * 12 * 32
    assert len(set(counts.tolist())) > 1
    assert found["blk.0.ffn_up_exps.weight"].sums.shape == (4 * 64,)
    assert found["blk.0.attn_q.weight"].counts.tolist() == [12 * 32]


def test_an_expert_without_tokens_is_solved_by_what_the_others_share(mixtral: Path, tmp_path: Path) -> None:
    record = quantized(mixtral, tmp_path / "o.gguf", windows=1, sequence_length=16)

    assert record.calibration.tensors == 15
    assert any("no token reached expert" in note for note in record.calibration.notes)
