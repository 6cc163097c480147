"""Inputs rounded per token: the codes, scales and products of an integer kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import activations, formats
from fewbits.errors import RecipeError
from fewbits.formats.dynamic import at_largest
from references.rounded_inputs import int8_codes, int8_product

TOKENS, COLS, ROWS = 9, 37, 5


def inputs(seed: int = 0) -> torch.Tensor:
    """(TOKENS, COLS), sizes of tokens far apart, one token of zeros, halves between codes."""
    x = (
        torch.randn(TOKENS, COLS, generator=torch.Generator().manual_seed(seed))
        * torch.logspace(-4, 4, TOKENS)[:, None]
    )
    x[3] = 0
    x[4] = torch.arange(COLS) / 2 - 9
    x[4, 0] = 127.0
    return x


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_tokens_do_not_know_each_other(name: str) -> None:
    x, rounding = inputs(), activations.get(name)
    alone = torch.cat([rounding.rounded(token[None]) for token in x])

    assert torch.equal(rounding.rounded(x), alone)
    assert torch.equal(rounding.rounded(x.reshape(3, 3, COLS)).reshape(x.shape), alone)
    assert torch.equal(alone[3], torch.zeros(COLS))
    assert torch.equal(alone.abs().amax(1), x.abs().amax(1)), "the largest comes back as it was"


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
