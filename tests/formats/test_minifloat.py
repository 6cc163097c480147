"""Small floats against torch's own types where it has them, and against every number that there is."""

from __future__ import annotations

import pytest
import torch

from fewbits.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, MiniFloat, exponent_of, power_of_two
from fewbits.testing.inputs import normal

EVERY = (torch.arange(2**20, dtype=torch.int32) << 12).view(torch.float32)
"""Binary32 numbers of every sign and exponent, ties of every type among them."""

IN_TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}


@pytest.mark.parametrize("kind", IN_TORCH, ids=lambda kind: kind.name)
def test_torch_has_the_same_numbers(kind: MiniFloat) -> None:
    codes = torch.arange(256).to(torch.uint8)
    theirs = codes.view(IN_TORCH[kind]).float()
    assert torch.equal(kind.decode(codes).nan_to_num(999.0), theirs.nan_to_num(999.0))
    held = EVERY[EVERY.abs() <= kind.largest]
    assert torch.equal(kind.encode(held), held.to(IN_TORCH[kind]).view(torch.uint8))
    assert bool(kind.decode(kind.encode(torch.tensor([torch.nan]))).isnan())


@pytest.mark.parametrize("kind", [E2M1, E2M3, E3M2, E4M3, E5M2], ids=lambda kind: kind.name)
def test_the_nearest_number_is_found(kind: MiniFloat) -> None:
    numbers = kind.numbers().double()
    finite = numbers[numbers.isfinite()].unique()
    ties = (finite[1:] + finite[:-1]) / 2
    x = torch.cat([normal(8, 128)[0] * kind.largest / 2, normal(8, 128)[1] * 2.0**kind.lowest, ties.float()])
    codes = kind.encode(x)
    nearest = (finite[:, None] - x.double()).abs().amin(0)
    assert torch.equal((kind.decode(codes).double() - x.double()).abs(), nearest)
    assert bool((codes[-len(ties) :] % 2 == 0).all()), "a tie goes to the even code"


@pytest.mark.parametrize(
    ("kind", "largest"), [(E2M1, 6.0), (E2M3, 7.5), (E3M2, 28.0), (E4M3, 448.0), (E5M2, 57344.0)], ids=str
)
def test_magnitudes_saturate(kind: MiniFloat, largest: float) -> None:
    x = torch.tensor([torch.inf, -torch.inf, 3e38, -2.0 * largest])
    assert kind.decode(kind.encode(x)).tolist() == [largest, -largest, largest, -largest]
    if kind.nan is None:
        assert kind.decode(kind.encode(torch.tensor([torch.nan]))).item() == largest


def test_powers_of_two_and_back() -> None:
    exponents = torch.arange(-149, 128, dtype=torch.int32)
    powers = power_of_two(exponents)
    assert powers.tolist() == [2.0 ** int(e) for e in exponents]
    assert torch.equal(exponent_of(1.5 * powers[1:]), exponents[1:])
    assert exponent_of(torch.tensor([0.0, -0.75])).tolist() == [-150, -1]
