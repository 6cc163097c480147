"""Experts listed answer what transformers' stacks answer, biases and other layouts included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from fewbits.calibration.experts import list_experts
from fewbits.errors import CalibrationError
from references.random_models import small_config

EXPERTS = {"num_experts_per_tok": 2, "initializer_range": 0.1}
KINDS: dict[str, Callable[[], Any]] = {
    "usual": lambda: small_config(transformers.MixtralConfig, rows=50, num_local_experts=4, **EXPERTS),
    "gpt-oss": lambda: small_config(transformers.GptOssConfig, rows=50, num_local_experts=4, head_dim=16, **EXPERTS),
    "llama4": lambda: small_config(transformers.Llama4TextConfig, rows=50, num_local_experts=4, head_dim=16, **EXPERTS),
}


def network_of(kind: str) -> Any:
    torch.manual_seed(2)
    network = transformers.AutoModelForCausalLM.from_config(KINDS[kind]()).eval()
    for parameter in network.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape) + (parameter.ndim == 1))
    return network


def matrices(kind: str, stacks: Any, number: int) -> dict[str, torch.Tensor]:
    """What an expert's linear modules hold, out of the stacks, as transformers' own forward uses them."""
    gate_up, down = stacks.gate_up_proj[number], stacks.down_proj[number]
    if kind == "usual":
        gate, up = gate_up.chunk(2)
        return {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down}
    gate_up, down = gate_up.T, down.T
    if kind == "llama4":
        gate, up = gate_up.chunk(2)
        return {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down}
    both, last = stacks.gate_up_proj_bias[number], stacks.down_proj_bias[number]
    found = {"gate_proj.weight": gate_up[::2], "up_proj.weight": gate_up[1::2], "down_proj.weight": down}
    return {**found, "gate_proj.bias": both[::2], "up_proj.bias": both[1::2], "down_proj.bias": last}


@pytest.mark.parametrize("kind", KINDS)
def test_they_answer_what_the_stacks_answer(kind: str) -> None:
    network, ids = network_of(kind), torch.arange(40)[None]
    with torch.no_grad():
        expected = network(ids).logits
    stacks = {name: m for name, m in network.named_modules() if hasattr(m, "gate_up_proj") and hasattr(m, "down_proj")}
    stacks = {name: m for name, m in stacks.items() if isinstance(m.gate_up_proj, torch.nn.Parameter)}
    list_experts(network)
    for name, module in stacks.items():
        for number, expert in enumerate(network.get_submodule(name)):
            expert.load_state_dict(matrices(kind, module, number))
    with torch.no_grad():
        found = network(ids).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert len(stacks) == 2


def test_every_expert_reached_is_seen_and_no_zeros() -> None:
    """Llama 4 gives every expert all tokens, those of others weighed by 0: only its own count."""
    network = network_of("llama4")
    list_experts(network)
    for parameter in network.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape))
    seen: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if name.endswith("gate_proj") and ".experts." in name:
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0]))
    with torch.no_grad():
        network(torch.arange(40)[None])
    assert sum(len(x) for x in seen.values()) == 2 * 2 * 40  # layers, experts per token, tokens
    assert all(bool(x.ne(0).any(-1).all()) for x in seen.values())


def test_stacks_of_another_kind_are_refused_by_name() -> None:
    network = network_of("gpt-oss")
    experts = network.model.layers[0].mlp.experts
    type(experts).__name__, kept = "OtherExperts", type(experts).__name__
    try:
        with pytest.raises(
            CalibrationError, match=r"model\.layers\.0\.mlp\.experts \(OtherExperts\).*--method nearest"
        ):
            list_experts(network)
    finally:
        type(experts).__name__ = kept
