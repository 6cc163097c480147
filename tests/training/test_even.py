"""Rounding to evenly spaced numbers a few rows at a time: the numbers and gradients of one formula, written plainly."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.training.fake import even
from fewbits.training.fake.even import even_rounded


def drawn(*shape: int, seed: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    found = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found * (high - low) + low


def plainly(
    w: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor | None,
    zero: torch.Tensor | None,
    middle: float,
    codes: tuple[int, int],
) -> torch.Tensor:
    """The same by autograd: rounding passes gradients on, and a clipped number is its code's for good.

    scale * q - offset, q = steps + (round(steps) - steps).detach() between the ends, steps = (w + offset) / scale.
    """
    offset = torch.zeros_like(scale) if offset is None else offset
    zero = torch.full_like(scale, middle) if zero is None else zero
    steps, low, high = (w + offset) / scale, codes[0] - zero, codes[1] - zero
    inside = (steps >= low - 0.5) & (steps <= high + 0.5)
    near = steps + (torch.clamp(steps.round(), low, high) - steps).detach()
    return torch.where(inside, near, torch.where(steps < low, low, high)) * scale - offset


def gradients(function: Any, given_: list[torch.Tensor | None], weight: torch.Tensor, **more: Any) -> list[Any]:
    leaves = [None if each is None else each.clone().requires_grad_() for each in given_]
    found = function(*leaves, **more)
    (found * weight).sum().backward()
    return [found.detach(), *(None if each is None else each.grad for each in leaves)]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_numbers_and_gradients_are_those_of_the_formula(data: Any) -> None:
    lines, groups, length = (data.draw(st.integers(1, most)) for most in (5, 3, 9))
    codes = data.draw(st.sampled_from([(0, 3), (-2, 1), (0, 1), (-8, 7)]))
    w, weight = drawn(lines, groups, length, seed=1, low=-3, high=3), drawn(lines, groups, length, seed=2)
    shape = (data.draw(st.sampled_from([1, lines])), groups, 1)
    scale = drawn(*shape, seed=3, low=0.2, high=0.9)
    offset = drawn(*shape, seed=4) if data.draw(st.booleans()) else None
    zero = drawn(*shape, seed=5, low=0.0, high=2.0).round() if data.draw(st.booleans()) else None
    middle = float(data.draw(st.sampled_from([0, 1, 2])))
    parameters, before = [w, scale, offset, zero], even.AT_A_TIME
    even.AT_A_TIME = data.draw(st.sampled_from([1, 16, before]))
    try:
        found = gradients(even_rounded, parameters, weight, middle=middle, codes=codes)
    finally:
        even.AT_A_TIME = before

    wanted = gradients(plainly, parameters, weight, middle=middle, codes=codes)

    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_only_what_is_asked_for_has_a_gradient() -> None:
    w, scale = drawn(2, 1, 4, seed=1).requires_grad_(), torch.ones(2, 1, 1, dtype=torch.float64)

    even_rounded(w, scale, None, None, middle=0.0, codes=(-2, 1)).sum().backward()

    assert w.grad is not None
    assert scale.grad is None


def test_a_shared_scale_gets_the_sum_over_all_lines() -> None:
    w, found = drawn(3, 1, 4, seed=1), []
    for lines in (1, 3):
        scale = torch.full((lines, 1, 1), 0.4, dtype=torch.float64, requires_grad=True)
        even_rounded(w, scale, None, None, middle=0.0, codes=(-2, 1)).sum().backward()
        assert scale.grad is not None
        found.append(scale.grad)

    torch.testing.assert_close(found[0], found[1].sum(0, keepdim=True))
    assert float(found[0].abs()) > 0.1
