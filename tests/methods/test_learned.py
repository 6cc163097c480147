"""Learned rounding: near the best of all roundings, never worse than its start, on a layer and every kind of grid."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import transformers

from fewbits import formats, methods
from fewbits.errors import CalibrationError
from fewbits.methods import learned
from fewbits.methods.learned import Schedule, learn, of_layer
from fewbits.methods.parts import rounded
from fewbits.qtensor import QTensor
from references.hessians import hessian_of, weights
from references.random_models import small_config


def inputs(cols: int, count: int = 64, seed: int = 0) -> torch.Tensor:
    """(count, cols) whose columns depend on each other."""
    factor = torch.linalg.cholesky(hessian_of(cols, seed).double() + 1e-3 * torch.eye(cols).double()).float()
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(seed)) @ factor.T


def linear(given: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return x @ given["w"].T


def error(x: torch.Tensor, w: torch.Tensor, stored: torch.Tensor) -> float:
    return float((x @ (stored - w).T).double().square().sum())


def test_near_the_best_of_all_roundings() -> None:
    w, x, format = weights(1, 10, 3), torch.randn(512, 10, generator=torch.Generator().manual_seed(4)), "int2_row_sym"
    x = x @ (torch.eye(10) + 0.15)
    start = rounded(w, formats.get(format))
    grid = start.format.grid(start.params, slice(None))
    below, above = (grid.value(grid.nearest(w + side * start.params["scale"] / 2)) for side in (-1, 1))
    every = [torch.where(torch.tensor(up), above, below) for up in product([False, True], repeat=10)]
    best = min(error(x, w, stored) for stored in every)

    found = learn(linear, x, x @ w.T, {"w": w}, {"w": start}, schedule=Schedule(steps=100, stretch=0.0, batch=64))["w"]

    before, after = error(x, w, start.dequantize()), error(x, w, found.dequantize())
    assert (before - after) / (before - best) > 0.7


FORMATS = ("Q2_K", "Q4_0", "Q5_1", "IQ4_XS", "nf4_g64", "nf4_g64_dq", "mxfp4", "nvfp4", "int8_tensor_sym", "BF16")


def mixed(cols: int, count: int) -> torch.Tensor:
    """(count, cols) inputs whose columns depend on each other."""
    mixing = torch.eye(cols) + 1.3 * torch.randn(cols, cols, generator=torch.Generator().manual_seed(5)) / cols**0.5
    return torch.randn(count, cols, generator=torch.Generator().manual_seed(1)) @ mixing


@pytest.mark.parametrize("name", FORMATS)
def test_every_grid_can_learn(name: str) -> None:
    w, x, format = weights(6, 256, 1), mixed(256, 2048), formats.get(name)
    q = rounded(w, format)

    found = learn(linear, x, x @ w.T, {"w": w}, {"w": q}, schedule=Schedule(steps=60, batch=64))["w"]

    assert found.format is format
    assert not torch.equal(found.codes, q.codes)
    assert error(x, w, found.dequantize()) < 0.97 * error(x, w, q.dequantize())


@pytest.mark.parametrize("name", ["Q2_K", "IQ4_XS", "nf4_g64"])
def test_from_another_method_the_samples_that_judge_never_lose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, format = weights(6, 256, 1), mixed(256, 512), formats.get(name)
    q = methods.get("gptq").solve(w, format, {"hessian": x.T @ x})
    losses: list[float] = []
    plain = learned._loss
    monkeypatch.setattr(learned, "_loss", lambda *given: losses.append(plain(*given)) or losses[-1])

    found = learn(linear, x, x @ w.T, {"w": w}, {"w": q}, schedule=Schedule(steps=40))["w"]

    judging = torch.randperm(512, generator=torch.Generator().manual_seed(0))[:64]
    assert error(x[judging], w, found.dequantize()) <= losses[0] * (1 + 1e-5)
    assert len(losses) == 21


def layer_of() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A layer of a small Llama, and position embeddings for 16 tokens."""
    config = small_config(transformers.LlamaConfig, rows=40, initializer_range=0.1)
    torch.manual_seed(0)
    model = transformers.LlamaModel(config).eval()
    return model.layers[0], model.rotary_emb(torch.zeros(1, 16, 64), torch.arange(16)[None])


def test_a_layer_of_seven_matrices() -> None:
    layer, positions = layer_of()
    answer = of_layer(layer, kwargs={"position_embeddings": positions})
    given = {name: m.weight.detach() for name, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
    mixed = torch.eye(64) + torch.randn(64, 64, generator=torch.Generator().manual_seed(5)) / 4
    x = 0.5 * torch.randn(288, 16, 64, generator=torch.Generator().manual_seed(1)) @ mixed
    with torch.no_grad():
        targets = answer(given, x)
    sites = {name: rounded(w, formats.get("int3_g32_sym")) for name, w in given.items()}

    found = learn(answer, x[:256], targets[:256], given, sites, schedule=Schedule(steps=80))

    def missed(sites: dict[str, QTensor]) -> float:
        stored = {name: q.dequantize() for name, q in sites.items()}
        with torch.no_grad():
            return float((answer(stored, x[256:]) - targets[256:]).square().mean())

    assert len(found) == 7
    assert missed(found) < 0.9 * missed(sites)  # on samples that were never seen
    assert all(torch.equal(m.weight, given[n]) for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear))


def test_nothing_learned_is_the_start() -> None:
    w, x = weights(4, 64), inputs(64)
    q = methods.get("gptq").solve(w, formats.get("Q4_0"), {"hessian": x.T @ x})

    found = learn(linear, x, x @ w.T, {"w": w}, {"w": q}, schedule=Schedule(steps=4, reach=0.0, stretch=0.0))["w"]

    assert torch.equal(found.dequantize(), q.dequantize())


def test_the_seed_decides() -> None:
    w, x, format = weights(4, 64), inputs(64), formats.get("int2_g32_sym")
    sites = {"w": rounded(w, format)}
    one, again, other = (
        learn(linear, x, x @ w.T, {"w": w}, sites, schedule=Schedule(steps=20), seed=seed)["w"] for seed in (1, 1, 2)
    )

    assert torch.equal(one.codes, again.codes)
    assert not torch.equal(one.codes, other.codes)


def test_answers_that_are_no_numbers_are_refused() -> None:
    w, x = weights(4, 64), inputs(64)
    x[0, 0] = torch.nan
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        learn(linear, x, x @ w.T, {"w": w}, {"w": rounded(w, formats.get("Q4_0"))})
