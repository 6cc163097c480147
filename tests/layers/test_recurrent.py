"""LSTM and GRU over packed matrices: torch's own outputs on the decoded weights, with all their options."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import fewbits
from fewbits.errors import KernelError
from fewbits.layers.recurrent import GRU, LSTM, Recurrent

KINDS: dict[str, tuple[type[torch.nn.RNNBase], type[Recurrent]]] = {
    "lstm": (torch.nn.LSTM, LSTM),
    "gru": (torch.nn.GRU, GRU),
}
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bias": False},
    {"bidirectional": True, "proj_size": 32},
)


def pair(kind: str, recipe: str = "int8_row_sym", **options: Any) -> tuple[torch.nn.Module, Any]:
    """A module, and the same quantized; the first has the decoded numbers of the second."""
    torch.manual_seed(0)
    plain = KINDS[kind][0](64, 96, **options)
    packed = copy.deepcopy(plain)
    fewbits.quantize(packed, recipe)
    assert type(packed) is KINDS[kind][1]
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(getattr(packed, name))
    return plain, packed


def flat(outputs: Any) -> list[torch.Tensor]:
    """Outputs and states one after another."""
    out, states = outputs
    return [out, *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_outputs_are_torch_s(kind: str, options: dict[str, Any]) -> None:
    if kind == "gru" and "proj_size" in options:
        options = {"num_layers": 2, "dropout": 0.5}
    plain, packed = (module.eval() for module in pair(kind, **options))
    x = torch.randn(5, 3, 64)
    first, second = flat(plain(x)), flat(packed(x))
    for a, b in zip(second, first, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    states = tuple(torch.randn_like(each) for each in first[1:])
    given = states if kind == "lstm" else states[0]
    for a, b in zip(flat(packed(x, given)), flat(plain(x, given)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    if not options.get("batch_first"):
        for a, b in zip(flat(packed(x[:, 0])), flat(plain(x[:, 0])), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_torch_s(kind: str) -> None:
    plain, packed = pair(kind, num_layers=2)
    grads = []
    for module in (plain, packed):
        x = torch.ones(4, 2, 64, requires_grad=True)
        flat(module(x))[0].square().sum().backward()
        grads.append((x.grad, module.bias_hh_l1.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_states_are_rounded(kind: str) -> None:
    plain, packed = pair(kind, "w8a8")
    x = torch.randn(5, 3, 64)
    assert set(packed.inputs.values()) == {"int8_token"}
    difference = (flat(packed(x))[0] - flat(plain(x))[0]).abs().max()
    assert 1e-4 < difference < 5e-2


@pytest.mark.parametrize("kind", KINDS)
def test_kept_copied_and_converted(kind: str) -> None:
    _, packed = pair(kind, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 64)
    expected = flat(packed(x))
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), packed.to("cpu")):
        assert all(torch.equal(a, b) for a, b in zip(flat(other(x)), expected, strict=True))
    assert {key for key in packed.state_dict() if "weight" in key} == {
        f"matrices.{name}.{field}" for name in packed.matrices for field in ("codes", "scale")
    }
    half = copy.deepcopy(packed).bfloat16()
    assert half.weight_ih_l0.dtype == torch.bfloat16
    assert torch.allclose(flat(half(x.bfloat16()))[0].float(), expected[0], atol=0.03)


def test_some_weights_may_stay() -> None:
    plain, _ = pair("lstm")
    packed: Any = copy.deepcopy(plain)
    record = fewbits.quantize(packed, "int8_row_sym", tensors={"weight_hh_l0": "F32"})
    assert list(packed.matrices) == ["weight_ih_l0"]
    assert [(t.planned.source_name, t.planned.format) for t in record.tensors] == [
        ("weight_ih_l0", "int8_row_sym"),
        ("weight_hh_l0", "F32"),
    ]
    x = torch.randn(5, 3, 64)
    torch.testing.assert_close(flat(packed(x))[0], flat(plain(x))[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_refused(kind: str) -> None:
    _, packed = pair(kind)
    ragged = torch.nn.utils.rnn.pack_sequence([torch.randn(4, 64), torch.randn(2, 64)])
    with pytest.raises(KernelError, match="takes no packed sequence"):
        packed(ragged)
    with pytest.raises(KernelError, match=r"not \(5, 3, 65\)"):
        packed(torch.randn(5, 3, 65))
