"""Inputs rounded per token: the codes, scales and products of an integer kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import activations, formats
from fewbits.errors import RecipeError
from fewbits.formats.dynamic import at_largest
from references.layer_inputs import INPUTS
from references.rounded_inputs import int8_codes, int8_product

TOKENS, COLS, ROWS = 9, 37, 5


def inputs(seed: int = 0, cols: int = COLS) -> torch.Tensor:
    """(TOKENS, cols), sizes of tokens far apart, one token of zeros, halves between codes."""
    x = (
        torch.randn(TOKENS, cols, generator=torch.Generator().manual_seed(seed))
        * torch.logspace(-4, 4, TOKENS)[:, None]
    )
    x[3] = 0
    x[4] = torch.arange(cols) / 2 - 9
    x[4, 0] = 127.0
    return x


ALONE = [
    name for name in activations.ACTIVATIONS if not (activations.get(name).splits or activations.get(name).together)
]


@pytest.mark.parametrize("name", ALONE)
def test_tokens_do_not_know_each_other(name: str) -> None:
    x, rounding = inputs(cols=64), activations.get(name)
    alone = torch.cat([rounding.rounded(token[None]) for token in x])

    assert torch.equal(rounding.rounded(x), alone)
    assert torch.equal(rounding.rounded(x.reshape(3, 3, 64)).reshape(x.shape), alone)
    assert torch.equal(alone[3], torch.zeros(64))
    if name == "int4_token":  # a seventh of a number, seven times, may be its neighbour
        torch.testing.assert_close(alone.abs().amax(1), x.abs().amax(1), rtol=1e-6, atol=0)
    elif name != "int8_token_asym":  # which moves all numbers a little
        assert torch.equal(alone.abs().amax(1), x.abs().amax(1)), "the largest comes back as it was"


@pytest.mark.parametrize("name", [name for name in INPUTS if name in activations.ACTIVATIONS])
def test_numbers_are_those_of_the_slow_reference(name: str) -> None:
    x = inputs(cols=64) * 1e-4
    x[:, 5] *= 1e3  # which sticks out of the largest tokens
    found = activations.get(name).rounded(x)
    wanted = INPUTS[name](x.numpy())
    allowed = 1e-4 if name == "int8_token_split" else 1e-6  # whose reference has 16 bits where floats stay
    assert np.allclose(found.numpy(), wanted, rtol=0, atol=allowed * x.abs().amax(1, keepdim=True).numpy())
    assert not np.allclose(wanted, x.numpy(), rtol=0, atol=1e-4 * x.abs().amax(1, keepdim=True).numpy())


def test_one_scale_for_all_tokens_leaves_nothing_of_small_ones() -> None:
    rounding, x = activations.get("int8_tensor"), torch.tensor([[127.0, -3.4, 0.6], [0.4, -0.3, 0.2]])
    assert torch.equal(rounding.rounded(x), torch.tensor([[127.0, -3.0, 1.0], [0.0, 0.0, 0.0]]))
    assert not torch.equal(rounding.rounded(x[1:]), torch.zeros(1, 3))


def test_columns_that_stick_out_are_those_of_the_batch() -> None:
    """A column stays where any token reaches 6.0 in it; another batch has others."""
    rounding, x = activations.get("int8_token_split"), torch.full((4, 64), 0.1)
    x[0, 7], x[:, 9], x[3, 11] = 6.0, 2.0, -50.0
    found = rounding.rounded(x)
    assert torch.equal(found[:, [7, 11]], x[:, [7, 11]])
    assert float((found - x).abs().max()) < 2.0 / 127
    alone = rounding.rounded(x[3:])
    assert torch.equal(alone[:, 11], x[3:, 11])
    assert torch.equal(alone, rounding.rounded(x[3:], torch.tensor([11])))


def test_codes_and_scales_are_those_of_the_reference() -> None:
    x, format = inputs(), formats.get(activations.get("int8_token").format)
    params = at_largest(format, x)  # type: ignore[arg-type]
    codes = format.encode(x, params).int() - 128
    for token, found, scale in zip(x.numpy(), codes.tolist(), params["scale"].flatten().numpy(), strict=True):
        wanted, size = int8_codes(token)
        assert found == wanted
        assert scale == size


@pytest.mark.parametrize("kept", [[], [0, 17, 36]])
def test_products_are_those_of_integers(kept: list[int]) -> None:
    x = inputs(1)
    x[:, kept] *= 70
    w, format = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(2)), formats.get("int8_row_sym")
    params = format.fit(w)
    codes, stored = format.encode(w, params), format.decode(format.encode(w, params), params)
    stored[:, kept] = w[:, kept].half().float()

    index = torch.tensor(kept) if kept else None
    found = activations.get("int8_token").rounded(x, index).double() @ stored.double().T

    columns = {c: stored[:, c].numpy() for c in kept}
    wanted = int8_product(x.numpy(), codes.numpy().astype(np.int64) - 128, params["scale"].flatten().numpy(), columns)
    assert np.allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max(1, keepdims=True))
    assert not np.allclose(found.numpy(), (x.double() @ stored.double().T).numpy(), rtol=1e-4)


def test_small_floats_saturate_nowhere() -> None:
    x = inputs()
    found = activations.get("fp8_token").rounded(x)
    near = x.abs() > x.abs().amax(1, keepdim=True) / 100

    assert float(((found - x)[near] / x[near]).abs().max()) <= 2.0**-4


def test_unknown_roundings_get_near_names() -> None:
    with pytest.raises(RecipeError, match="'int8_tokn'; did you mean 'int8_token'"):
        activations.get("int8_tokn")
