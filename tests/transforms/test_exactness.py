"""Transforms change no output of a model; what they should lower, they lower."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from fewbits import activations, formats, transforms
from fewbits.errors import TransformError
from fewbits.formats import Format
from fewbits.transforms import Edits, Hadamard, groups_of, stream_of
from fewbits.transforms.base import scaled
from fewbits.transforms.edits import RotatedColumns, ScaledColumns, ScaledRows
from references.outlier_models import sticking_out, with_outliers
from transforms.models import KINDS, Model, Weights, inputs_of, logits, model_of, pocket, tokens_of

CHANGED = re.compile(r"(v_proj|o_proj|up_proj|down_proj|layernorm)\.weight")
"""What any of these edits has to change."""


def gains(model: Model, weights: Weights) -> Weights:
    return {name: weights[name] for name in stream_of(model.architecture, model.config, weights).readers}


def rotated(model: Model, weights: Weights, seed: int = 3) -> Edits:
    return Hadamard(seed=seed).edits(stream_of(model.architecture, model.config, weights), gains(model, weights))


def all_groups(model: Model, weights: Weights) -> list[Any]:
    layers: list[int | None] = [*range(model.layers), None]
    return [g for layer in layers for g in groups_of(model.architecture, model.config, weights, layer)]


def at_random(model: Model, weights: Weights) -> Edits:
    """Every group scaled by random factors."""
    drawn, edits = torch.Generator().manual_seed(9), Edits()
    for group in all_groups(model, weights):
        width = weights[group.producers[0]].shape[0]
        edits += scaled(group, torch.rand(width, generator=drawn).double() * 3 + 0.2)
    return edits


def statistics(x: torch.Tensor) -> Mapping[str, Any]:
    return {"hessian": x.T @ x / len(x), "absmax": x.abs().amax(0), "inputs": x[:256]}


def by(name: str, model: Model, weights: Weights, format: Format) -> Edits:
    """The edits of a transform of groups, by what reaches the model's matrices on some tokens."""
    inputs, edits = inputs_of(model, weights, tokens_of(model, 5)), Edits()
    for group in all_groups(model, weights):
        stats = statistics(inputs[group.consumers[0]])
        chosen, rounding = dict.fromkeys(group.consumers, format), activations.get("int8_token").rounded
        edits += transforms.get(name).edits(group, weights, chosen, stats, rounding=rounding)
    return edits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edits", [rotated, at_random], ids=["hadamard", "scaled"])
def test_logits_stay(kind: str, edits: Any) -> None:
    model = model_of(kind)
    tokens = tokens_of(model)
    changed = edits(model, model.weights).apply(model.weights)

    assert not any(torch.equal(changed[name], w) for name, w in model.weights.items() if CHANGED.search(name))
    before, after = logits(model, model.weights, tokens), logits(model, changed, tokens)
    assert float(before.abs().max()) > 1
    assert float((after - before).abs().max()) < 1e-4


@pytest.mark.parametrize("edits", [rotated, at_random], ids=["hadamard", "scaled"])
def test_logits_of_the_embedded_model_stay(edits: Any) -> None:
    model = pocket()
    tokens = tokens_of(model)
    changed = edits(model, model.weights).apply(model.weights)

    assert float((logits(model, changed, tokens) - logits(model, model.weights, tokens)).abs().max()) < 1e-4


@pytest.mark.parametrize("fault", ["gain", "head", "writer"])
def test_a_planted_fault_is_seen(fault: str) -> None:
    model = model_of("qwen2")
    edits = rotated(model, model.weights)
    wrong = {
        "gain": lambda e: e.tensor != "model.layers.0.input_layernorm.weight",
        "head": lambda e: not (isinstance(e, RotatedColumns) and "o_proj" in e.tensor),
        "writer": lambda e: "mlp.down_proj" not in e.tensor,
    }[fault]
    changed = replace(edits, steps=tuple(e for e in edits.steps if wrong(e))).apply(model.weights)
    tokens = tokens_of(model)

    assert float((logits(model, changed, tokens) - logits(model, model.weights, tokens)).abs().max()) > 0.1


def test_a_tied_head_gets_numbers_of_its_own_and_that_is_said() -> None:
    model = model_of("llama, tied")
    for edits in (rotated(model, model.weights), at_random(model, model.weights)):
        assert edits.configuration == {"tie_word_embeddings": False}
        assert edits.remarks == ("the output head gets numbers of its own: it shared the embedding's",)
        assert "lm_head.weight" in edits.apply(model.weights)
    assert rotated(model_of("llama"), model_of("llama").weights).remarks == ()


def test_weights_given_stay_as_they_are() -> None:
    model = model_of("llama")
    before = {name: w.clone() for name, w in model.weights.items()}
    rotated(model, model.weights).apply(model.weights)

    assert all(torch.equal(w, before[name]) for name, w in model.weights.items())


def test_pieces_get_what_the_whole_gets() -> None:
    model = model_of("llama, tied")
    edits = rotated(model, model.weights) + at_random(model, model.weights)
    whole = edits.apply(model.weights)

    for name in whole:
        source = edits.untied.get(name, name)
        piece = edits.only([name]).apply({source: model.weights[source]})
        assert torch.equal(piece[name], whole[name])


def test_hessians_follow_the_edits() -> None:
    model = model_of("llama")
    tokens = tokens_of(model, 2)
    steps = by("awq", model, model.weights, formats.get("int4_g16_sym"))
    changed = steps.apply(model.weights)
    edits = steps + Hadamard(seed=3).edits(stream_of(model.architecture, model.config, changed), gains(model, changed))
    before, after = inputs_of(model, model.weights, tokens), inputs_of(model, edits.apply(model.weights), tokens)

    for name, x in before.items():
        wanted = after[name].T @ after[name]
        found = edits.hessian(name, x.double().T @ x.double()).float()
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name


def kl(model: Model, weights: Weights, wanted: torch.Tensor, format: Format) -> float:
    """The mean KL divergence to the logits `wanted` of a model whose matrices in layers are rounded to nearest."""
    rounded = {
        name: format.decode(format.encode(w, format.fit(w)), format.fit(w)) if ".layers." in name and w.ndim == 2 else w
        for name, w in weights.items()
    }
    found = logits(model, rounded, tokens_of(model, 7)).log_softmax(-1)
    return float((wanted.softmax(-1) * (wanted.log_softmax(-1) - found)).sum(-1).mean())


@pytest.mark.parametrize(
    ("name", "format"),
    [("awq", "int4_g32_sym"), ("awq", "int4_row_sym"), ("awq", "nf4_g64"), ("smooth", "int4_row_sym")],
)
def test_less_is_lost_of_a_model_with_outlier_features(name: str, format: str) -> None:
    model = pocket()
    weights = with_outliers(model.weights, model.layers)
    wanted = logits(model, model.weights, tokens_of(model, 7))
    assert float((logits(model, weights, tokens_of(model, 7)) - wanted).abs().max()) < 1e-3

    changed = by(name, model, weights, formats.get(format)).apply(weights)

    assert kl(model, changed, wanted, formats.get(format)) < 0.8 * kl(model, weights, wanted, formats.get(format))


@pytest.mark.parametrize("format", ["int4_row_sym", "int3_g128_sym"])
def test_less_is_lost_of_a_model_that_sticks_out(format: str) -> None:
    model = pocket()
    weights = sticking_out(model.weights, model.layers)
    wanted = logits(model, weights, tokens_of(model, 7))

    changed = rotated(model, weights).apply(weights)

    assert kl(model, changed, wanted, formats.get(format)) < 0.8 * kl(model, weights, wanted, formats.get(format))


def test_awq_never_loses_on_its_own_measure() -> None:
    model = model_of("llama")
    inputs = inputs_of(model, model.weights, tokens_of(model))
    format = formats.get("int3_row_sym")
    for group in all_groups(model, model.weights):
        stats = statistics(inputs[group.consumers[0]])
        edits = transforms.get("awq").edits(group, model.weights, dict.fromkeys(group.consumers, format), stats)
        changed = edits.apply(model.weights)
        before, after = 0.0, 0.0
        for name in group.consumers:
            h, factor = stats["hessian"].double(), edits.hessian(name, stats["hessian"].double())
            before += cost(model.weights[name], h, format)
            after += cost(changed[name], factor, format)
        assert after <= before * (1 + 1e-6)


def cost(w: torch.Tensor, hessian: torch.Tensor, format: Format) -> float:
    importance = (hessian.diagonal() / hessian.diagonal().mean()).clamp(min=2.0**-20).float()
    params = format.fit(w.float(), importance=format.weights(w.float(), importance))
    error = w.double() - format.decode(format.encode(w.float(), params), params).double()
    return float(((error @ hessian) * error).sum())


def test_smooth_makes_errors_of_8_bits_smaller() -> None:
    model = pocket()
    weights = with_outliers(model.weights, model.layers)
    inputs = inputs_of(model, weights, tokens_of(model, 5))
    format = formats.get("int8_row_sym")
    group = next(g for g in all_groups(model, weights) if g.name == "feed-forward input")
    x = inputs[group.consumers[0]]
    rounding, chosen = activations.get("int8_token").rounded, dict.fromkeys(group.consumers, format)
    edits = transforms.get("smooth").edits(group, weights, chosen, statistics(x), rounding=rounding)
    factor = next(e.factor for e in edits.steps if isinstance(e, ScaledColumns))
    changed = edits.apply(weights)

    def error(x: torch.Tensor, w: torch.Tensor, wanted: torch.Tensor) -> float:
        step = x.abs().amax(1, keepdim=True) / 127
        rounded = (x / step).round() * step
        stored = format.decode(format.encode(w, format.fit(w)), format.fit(w))
        return float((rounded @ stored.T - wanted).square().mean())

    for name in group.consumers:
        wanted = x @ weights[name].T
        assert error(x / factor.float(), changed[name], wanted) < 0.25 * error(x, weights[name], wanted)


def test_smooth_leaves_what_is_not_rounded() -> None:
    model = model_of("llama")
    x = inputs_of(model, model.weights, tokens_of(model, 5))
    group = next(g for g in all_groups(model, model.weights) if g.name == "feed-forward input")
    chosen = dict.fromkeys(group.consumers, formats.get("int8_row_sym"))

    assert transforms.get("smooth").edits(group, model.weights, chosen, statistics(x[group.consumers[0]])) == Edits()


def test_smooth_folded_into_the_file_changes_no_output() -> None:
    model = model_of("llama")
    edits = by("smooth", model, with_outliers(model.weights, model.layers), formats.get("int8_row_sym"))
    before = with_outliers(model.weights, model.layers)
    tokens = tokens_of(model)

    assert edits.steps
    changed = logits(model, edits.apply(before), tokens)
    assert float((changed - logits(model, before, tokens)).abs().max()) < 1e-4


def test_a_width_that_cannot_be_rotated_is_refused() -> None:
    model = model_of("llama")
    stream = replace(stream_of(model.architecture, model.config, model.weights), width=52)
    with pytest.raises(TransformError, match="52 is a width the transform cannot rotate"):
        Hadamard().edits(stream, gains(model, model.weights))


def test_a_missing_tensor_is_refused_by_name() -> None:
    with pytest.raises(TransformError, match=r"edits up\.weight, which is not among the 1"):
        Edits((ScaledRows("up.weight", torch.ones(3)),)).apply({"down.weight": torch.ones(3, 3)})
