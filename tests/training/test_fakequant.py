"""What a prepared module computes with is what its converted one stores, in every format, and gradients pass."""

from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.errors import FewbitsError, TrainingError, VerificationError
from fewbits.kernels.stored import stored_numbers
from fewbits.layers.matrix import PackedMatrix
from fewbits.training import FakeMatrix, convert, prepare
from fewbits.training.fake.matrix import near
from fewbits.training.fake.steps import learnable

TRAINED = ("int2_g32_sym_f16", "uint4_tensor_asym", "ternary_row", "Q2_K", "Q6_K", "nf4_g64", "IQ3_S")


def width(name: str) -> int:
    """Columns that fill spans, two of them where they are not long."""
    span = formats.get(name).span
    return span * 2 if span >= 32 else 192


def drawn(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Weights that are never alike, some far out."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, cols, generator=generator) * 0.1
    return w + 0.5 * (torch.rand(rows, cols, generator=generator) > 0.98)


def trained(name: str, learn: str = "auto") -> torch.nn.Sequential:
    """A prepared linear layer after a few steps, scales and zero points moved with the weights."""
    net = torch.nn.Sequential(torch.nn.Linear(width(name), 6, bias=False))
    net[0].weight.data.copy_(drawn(6, width(name)))
    prepare(net, name, tensors={"0": name}, learn=learn)
    x, wanted = drawn(16, width(name), 1), drawn(16, 6, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) - wanted).square().mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if name != "F32"])
def test_every_format_computes_with_what_is_stored_of_it(name: str) -> None:
    net = trained(name).eval()
    x = drawn(4, width(name), 3)
    before, weight = net(x), net[0].rounded_weight().detach()

    convert(net, inputs="exact")
    matrix = net[0].matrix

    assert matrix.format.lower() == name.lower()  # mxfp4 by itself is GGUF's
    assert torch.equal(net[0].weight, weight)  # decoded natively, where it was made in torch
    format = formats.get(matrix.format)
    own = {key: np.array(field) for key, field in matrix.stored().items()}
    assert torch.equal(format.decode(*format.from_fields(own, matrix.shape)), weight)  # and the other way round
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["int4_row_sym", "Q2_K", "Q4_0", "IQ2_XS", "mxfp4"])
def test_a_fault_in_what_is_exported_is_seen(name: str) -> None:
    net = trained(name).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    true = FakeMatrix.stored

    def faulty(self: FakeMatrix, w: torch.Tensor) -> dict[str, np.ndarray]:
        fields = {key: np.array(field) for key, field in true(self, w).items()}
        bytes_of = next(iter(fields.values())).reshape(-1).view(np.uint8)
        bytes_of[5] ^= 1
        return fields

    with mock.patch.object(FakeMatrix, "stored", faulty), pytest.raises(VerificationError, match=r"weight of 0"):
        convert(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(isinstance(module, PackedMatrix) for module in net.modules())


@pytest.mark.parametrize("name", [n for n in formats.FORMATS if learnable(formats.get(n)) is not None])
def test_learned_scales_begin_where_the_search_of_the_format_ends(name: str) -> None:
    w = drawn(6, width(name))

    learned, fitted = FakeMatrix(name, w, learn="steps"), FakeMatrix(name, w, learn="none")

    assert torch.equal(learned(w), fitted(w))
    assert list(fitted.parameters()) == []
    assert all(p.shape[0] in (1, 6) for p in learned.parameters())


@pytest.mark.parametrize("learn", ["auto", "none"])
@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_with_scales_learned_and_fitted(name: str, learn: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(width(name), 6, bias=False))
    net[0].weight.data.copy_(drawn(6, width(name)))
    x, wanted = drawn(32, width(name), 1), drawn(32, 6, 2)
    prepare(net, name, tensors={"0": name}, learn=learn)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (net(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert min(losses[-5:]) < 0.6 * losses[0]


def test_the_gradient_of_what_was_clipped_is_nothing() -> None:
    w = torch.tensor([[0.1, -0.25, 3.0, 0.4, -0.5, 0.2, 0.3, -0.1]], requires_grad=True)
    fake = FakeMatrix("int4_tensor_sym", w)
    fake.get_buffer("scale_start").fill_(0.1)

    fake(w).sum().backward()

    assert w.grad is not None
    assert w.grad.tolist() == [[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]]


def test_of_fitted_formats_what_lies_far_beyond_its_span_is_clipped() -> None:
    stored = torch.tensor([[-1.0, 0.0, 1.0, 1.0] * 8])
    w = stored + 0.1
    w[0, 3] = 3.0

    assert near(stored, w, 32)[0].nonzero().flatten().tolist() == [i for i in range(32) if i != 3]


def test_nothing_is_rounded_before_the_delay_is_over_and_all_is_in_eval() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(32, 4))
    plain = copy.deepcopy(net)
    x = drawn(8, 32, 1)
    prepare(net, "int2_g32_sym_f16", tensors={"0": "int2_g32_sym_f16"}, activations="int2_learned", delay=2)

    first, second, third = net(x), net(x), net(x)

    assert torch.equal(first, plain(x))
    assert torch.equal(second, plain(x))
    assert not torch.allclose(third, plain(x), atol=1e-3)
    again = copy.deepcopy(net)
    again[0].fake_weight.calls.zero_()
    assert not torch.allclose(again.eval()(x), plain(x), atol=1e-3)


def test_steps_that_cannot_be_learned_are_refused_in_one_sentence() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(256, 4))

    with pytest.raises(TrainingError, match=r"^IQ2_XS has no scales that gradients can reach"):
        prepare(net, "IQ2_XS", tensors={"0": "IQ2_XS"}, learn="steps")
    with pytest.raises(TrainingError, match=r"auto, steps, none"):
        prepare(net, "Q8_0", learn="all")
    assert type(net[0]) is torch.nn.Linear


@pytest.mark.parametrize("name", ["int4_row_sym", "Q4_0"])
def test_a_copy_and_a_saved_state_compute_the_same(name: str) -> None:
    net = trained(name)
    other = torch.nn.Sequential(torch.nn.Linear(width(name), 6, bias=False))
    other[0].weight.data.copy_(drawn(6, width(name)))
    prepare(other, name, tensors={"0": name})

    other.load_state_dict(net.state_dict())

    x = drawn(4, width(name), 3)
    assert torch.equal(other(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_what_native_codecs_store_is_decoded_by_others_too() -> None:
    net = trained("Q8_0").eval()
    weight = net[0].rounded_weight().detach()
    fields = net[0].fake.stored(net[0].weight.detach())

    assert torch.equal(stored_numbers(formats.get("Q8_0"), fields, tuple(weight.shape)), weight)


def test_a_start_is_refused_where_scales_are_fitted() -> None:
    w = drawn(2, 32)
    format = formats.get("Q4_0")

    with pytest.raises(FewbitsError, match=r"finds its scales anew"):
        FakeMatrix("Q4_0", w).start(format.fit(w))
