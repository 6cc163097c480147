"""Experts that were taken out of transformers' stacks answer as the stacks do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from fewbits.calibration.experts import list_experts
from fewbits.evaluation.experts import taken_apart
from references.expert_models import configuration

KINDS = ("mixtral", "qwen3_moe", "qwen2_moe")


def listed(network: Any) -> Any:
    """A copy of `network` with its experts listed, each given its part of the stacks."""
    state = network.state_dict()
    copy = transformers.AutoModelForCausalLM.from_config(network.config)
    list_experts(copy)
    for name, parameter in copy.named_parameters():
        before, _, after = name.partition(".experts.")
        if not after:
            parameter.data.copy_(state[name])
            continue
        number, part, _ = after.split(".")
        stack = state[f"{before}.experts.{'down_proj' if part == 'down_proj' else 'gate_up_proj'}"][int(number)]
        half = len(stack) // 2
        parameter.data.copy_({"gate_proj": stack[:half], "up_proj": stack[half:], "down_proj": stack}[part])
    return copy.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_stacks(kind: str) -> None:
    torch.manual_seed(3)
    network = transformers.AutoModelForCausalLM.from_config(configuration(kind, 97)).eval()
    ids = torch.randint(0, 97, (2, 24))

    with torch.no_grad():
        expected, found = network(ids).logits, listed(network)(ids).logits

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_that_stacks_are_taken_apart_to(kind: str) -> None:
    network = transformers.AutoModelForCausalLM.from_config(configuration(kind, 97))
    stacked = taken_apart({name: tuple(p.shape) for name, p in network.named_parameters()})
    count = network.config.num_experts if hasattr(network.config, "num_experts") else network.config.num_local_experts
    list_experts(network)
    found = {name: tuple(p.shape) for name, p in network.named_parameters()}

    for name, shape in stacked.items():
        own = [name.replace("{expert}", str(n)) for n in range(count)] if "{expert}" in name else [name]
        assert all(found.pop(each) == shape[-2:] for each in own), name
    assert found == {}
