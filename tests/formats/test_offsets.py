"""Offsets of their own: fits against least squares and every choice of codes; never behind whole zero points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.testing.inputs import matrices, normal
from references import lines

MEMBERS = ("bias", "floatzero")


def errors(name: str, w: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted squared errors of each group of 32, float64."""
    format = formats.get(name)
    params = format.fit(w, importance=importance)
    off = format.decode(format.encode(w, params), params).double() - w.double()
    weight = torch.ones_like(w) if importance is None else importance.expand_as(w)
    return (weight.double() * off.square()).reshape(len(w), -1, 32).sum(-1)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("bits", [1, 2])
def test_the_line_is_near_the_best_of_all(member: str, bits: int) -> None:
    """Of groups of 5 numbers every choice of codes is tried; ours comes close on average, and is never below."""
    w, importance = normal(40, 5, 3) ** 3 + 0.5, normal(1, 5, 4)[0].square() + 0.1
    format = formats.get(f"uint{bits}_g5_{member}")
    params = format.fit(w, importance=importance)
    off = format.decode(format.encode(w, params), params).double() - w
    found = (importance.double() * off.square()).sum(-1).numpy()
    weight = importance.double().numpy()
    best = np.array([lines.least_error(row, weight, 2**bits) for row in w.double().numpy()])
    assert (found >= best * (1 - 1e-4) - 1e-12).all()
    assert found.sum() <= 1.15 * best.sum()


@pytest.mark.parametrize("member", MEMBERS)
def test_a_fit_at_codes_is_least_squares(member: str) -> None:
    w, importance = normal(6, 64, 5), normal(1, 64, 6)[0].square() + 0.01
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, 16, (6, 64)).astype(np.uint8))
    codes[:, :8] = torch.arange(8, dtype=torch.uint8)
    w = w + 0.3 * codes
    format = formats.get(f"uint4_g64_{member}")
    params = format.fit(w, importance=importance, codes=codes)
    offset = params["bias"] if member == "bias" else -params["scale"] * params["zero"]
    for row in range(6):
        wanted = lines.line_at(w[row].double().numpy(), importance.double().numpy(), codes[row].numpy())
        assert np.allclose([params["scale"][row, 0], offset[row, 0]], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["", "_f16", "_bf16"])
@pytest.mark.parametrize("member", MEMBERS)
def test_never_farther_than_whole_zero_points(member: str, kind: str) -> None:
    """Group by group, on hard numbers and weighted: but for a bias that is rounded where a zero point is exact."""
    w = torch.cat([*matrices(3, 128, 60000.0).values(), normal(3, 128, 8) + 20.0, torch.full((1, 128), -0.37)])
    importance = normal(1, 128, 5)[0].square() + 0.01
    largest = w.double().reshape(len(w), -1, 32).abs().amax(-1)
    rounding = {"": 2.0**-22, "_f16": 2.0**-11, "_bf16": 2.0**-8}[kind] if member == "bias" else 2.0**-22
    for bits in (2, 4, 8):
        whole = errors(f"uint{bits}_g32_asym{kind}", w, importance)
        own = errors(f"uint{bits}_g32_{member}{kind}", w, importance)
        allowed = (whole.sqrt() + importance.double().sum().sqrt() * rounding * largest).square()
        assert (own <= allowed).all(), bits


@pytest.mark.parametrize(("bits", "share"), [(2, 0.85), (3, 0.91), (4, 0.91)])
def test_it_gains_where_it_should(bits: int, share: float) -> None:
    """On normal numbers, in groups of 64: the share of a whole zero point's error that is left."""
    w = normal(256, 1024, 9)
    for member in MEMBERS:
        gain = errors(f"uint{bits}_g64_{member}_f16", w).sum() / errors(f"uint{bits}_g64_asym_f16", w).sum()
        assert gain < share


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("kind", ["", "_f16", "_bf16"])
def test_constant_groups_come_back(member: str, kind: str) -> None:
    """As near as their type allows; zeros exactly."""
    w = torch.tensor([[0.37], [-3.0], [0.0], [1e-3], [1000.0]]).expand(5, 64).contiguous()
    format = formats.get(f"uint4_g32_{member}{kind}")
    for codes in (None, torch.full((5, 64), 9, dtype=torch.uint8)):
        params = format.fit(w, codes=codes)
        back = format.decode(format.encode(w, params) if codes is None else codes, params)
        close = {"": 2.0**-20, "_f16": 2.0**-10, "_bf16": 2.0**-7}[kind]
        assert ((back - w).abs() <= close * w.abs()).all()
