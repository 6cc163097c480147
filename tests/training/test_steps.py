"""Gradients of learned steps are those of their papers: against a slow stand-in, and against finite differences."""

from __future__ import annotations

import pytest
import torch

from fewbits import formats
from fewbits.formats.grids import UniformGrid
from fewbits.training.fake.steps import learnable, within
from fewbits.training.fake.straight import masked, stepped, through
from references.lsq import surrogate

KINDS = ("int4_g32_sym_f16", "uint2_g32_asym_f16", "int1_g32_sym_f16", "Q2_K", "Q3_K", "nf4_g64")


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers (3, 5, 8) float64, some beyond their grids, scales and whole zero points (3, 5, 1)."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    scale = 0.1 + torch.rand(3, 5, 1, generator=generator, dtype=torch.float64)
    zero = torch.randint(0, 4, (3, 5, 1), generator=generator).double()
    return w, scale, zero


@pytest.mark.parametrize("strict", [True, False])
def test_the_stand_in_has_the_gradients_that_finite_differences_have(strict: bool) -> None:
    w, scale, zero = (part.requires_grad_() for part in case())
    inside = ends(w.detach(), scale.detach(), zero.detach(), strict=strict)
    fixed = (w / scale + zero).detach()

    def smooth(w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        code = fixed.round().clamp(0, 3)
        return scale * (torch.where(inside, w / scale + zero + (code - fixed), code) - zero)

    assert torch.autograd.gradcheck(smooth, (w, scale, zero))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("strict", [True, False])
def test_learned_steps_have_the_gradients_of_the_stand_in(strict: bool) -> None:
    w, scale, zero = (part.requires_grad_() for part in case())
    inside = ends(w.detach(), scale.detach(), zero.detach(), strict=strict)
    weight = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slow = surrogate(w, scale, zero, 0, 3, inside)
    wanted = torch.autograd.grad((slow * weight).sum(), (w, scale, zero))

    value = (scale * ((w / scale + zero).round().clamp(0, 3) - zero)).detach()
    fast = stepped(w, scale, torch.zeros_like(scale), zero, value, inside)
    found = torch.autograd.grad((fast * weight).sum(), (w, scale, zero))

    torch.testing.assert_close(fast, slow)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_offsets_move_what_was_clipped_alone() -> None:
    w, scale, _ = case()
    offset = torch.full_like(scale, 0.7, requires_grad=True)
    grid = UniformGrid(scale.float(), offset.detach().float(), top=3)
    value = grid.value(grid.nearest(w.float())).double()
    inside = within(grid, w)

    stepped(w, scale, offset, torch.zeros_like(scale), value, inside).sum().backward()

    assert offset.grad is not None
    assert torch.equal(offset.grad, -(~inside).sum(-1, keepdim=True).double())


def ends(w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, *, strict: bool) -> torch.Tensor:
    """Which numbers lie between the ends of codes 0 to 3, or half a step beyond."""
    margin = 0.0 if strict else 0.5
    place = w / scale + zero
    return (place >= -margin) & (place <= 3 + margin)


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_learned_by_finite_differences_of_what_is_decoded(name: str) -> None:
    """Where codes stay, the gradient of a scale is how decoded numbers move with it, less that of the weights."""
    format = formats.get(name)
    w = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)) * 0.1
    params = format.fit(w)
    rule = learnable(format)
    assert rule is not None
    which = "d" if "d" in params.arrays else "scale"
    lines = rule.lines({key: value.clone().requires_grad_() for key, value in params.arrays.items()})

    codes = format.encode(w, params)
    assert torch.equal(lines.rounded(w).detach(), format.decode(codes, params))
    changed = dict(params.arrays) | {which: params[which] * 1.25}
    moved = rule.lines(changed)
    factor = (moved.grid.scale / lines.grid.scale).nan_to_num(1.25)
    torch.testing.assert_close(factor, torch.full_like(factor, 1.25), rtol=2e-3, atol=1e-3)


def test_gradients_pass_what_is_stored() -> None:
    x = torch.tensor([0.3, 1.6], requires_grad=True)
    y = torch.tensor([0.0, 2.0])

    (through(x, y) * torch.tensor([1.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 3.0]
    x.grad = None
    masked(x, y, torch.tensor([True, False])).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]
