"""The device that is not there refuses what a GPU refuses, and takes what a GPU takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from devices.other_device import DEVICE, Elsewhere, other_device

Maker = Callable[[torch.Tensor, torch.Tensor], object]

MADE_ELSEWHERE: dict[str, Maker] = {
    "factories": lambda x, p: torch.arange(6.0, device=x.device),
    "lists": lambda x, p: torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], device=x.device),
    "like another": lambda x, p: torch.zeros_like(x) + x,
    "moved": lambda x, p: p.to(x.device),
    "moved to another": lambda x, p: p.to(x),
    "single numbers": lambda x, p: x + p[0],
    "indices on the CPU": lambda x, p: x[p.long()],
    "indices": lambda x, p: x[x.long()],
    "copied": lambda x, p: torch.empty_like(x).copy_(p),
    "pieces": lambda x, p: torch.cat(torch.split(x, 2)),
    "rows": lambda x, p: torch.stack(list(x)),
    "views": lambda x, p: x.view(torch.int32).reshape(2, 3).T.T.flatten().view(torch.float32),
}

REFUSED: dict[str, tuple[type[Exception], str, Maker]] = {
    "sum": (RuntimeError, "meets one on the CPU", lambda x, p: x + p),
    "sum in place": (RuntimeError, "meets one on the CPU", lambda x, p: p.add_(x)),
    "sum into one number": (RuntimeError, "meets one on the CPU", lambda x, p: p[0].add_(x[0])),
    "sum with one number": (RuntimeError, "meets one on the CPU", lambda x, p: p + x[0]),
    "choice": (RuntimeError, "meets one on the CPU", lambda x, p: torch.where(x > 1, x, p)),
    "pieces": (RuntimeError, "meets one on the CPU", lambda x, p: torch.cat([x, p])),
    "comparison": (RuntimeError, "meets one on the CPU", torch.equal),
    "places": (RuntimeError, "meets one on the CPU", torch.bucketize),
    "index into the CPU": (RuntimeError, "meets one on the CPU", lambda x, p: p[x.long()]),
    "numpy": (RuntimeError, "numpy", lambda x, p: x.numpy()),
    "numpy without a word": (RuntimeError, "numpy", lambda x, p: np.asarray(x)),
    "no numbers": (RuntimeError, "without numbers", lambda x, p: x + x.new_tensor([1.0])),
    "wide unsigned": (NotImplementedError, "uint16", lambda x, p: x.to(torch.uint16) == 3),
    "wide unsigned shift": (NotImplementedError, "uint32", lambda x, p: x.to(torch.uint32) >> 3),
    "too large": (ArithmeticError, "cannot hold", lambda x, p: (100 * x).to(torch.uint8)),
    "NaN": (ArithmeticError, "cannot hold", lambda x, p: (x * torch.nan).long()),
    "negative": (ArithmeticError, "cannot hold", lambda x, p: (-x).to(torch.uint8)),
    "wide shift": (ArithmeticError, "not defined", lambda x, p: x.to(torch.int32) << 32),
    "negative shift": (ArithmeticError, "not defined", lambda x, p: x.long() >> (x.long() - 1)),
    "power": (ArithmeticError, "every device", lambda x, p: 2.0**x),
    "total": (ArithmeticError, "every device", lambda x, p: x.mean()),
    "multiple added": (ArithmeticError, "rounded once", lambda x, p: torch.add(x, x, alpha=3)),
    "division": (ArithmeticError, "inverse of 3", lambda x, p: x / 3),
    "division by one number": (ArithmeticError, "inverse of 5", lambda x, p: x / p[-1]),
}


@pytest.mark.parametrize("how", MADE_ELSEWHERE)
def test_what_is_made_elsewhere(how: str) -> None:
    p = torch.arange(6.0)
    with other_device() as device:
        made = MADE_ELSEWHERE[how](p.to(device), p)
        assert isinstance(made, Elsewhere)
        assert made.device == DEVICE
        assert torch.equal(made.cpu(), p)
        assert type(made.cpu()) is torch.Tensor


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    error, message, run = REFUSED[what]
    p = torch.arange(6.0)
    with other_device() as device, pytest.raises(error, match=message):
        run(p.to(device), p)


def test_single_numbers_come_back() -> None:
    with other_device() as device:
        x = torch.tensor([1.5, -2.0]).to(device)
        assert (x[0].item(), float(x[1]), x.tolist(), f"{x[0]:.2f}") == (1.5, -2.0, [1.5, -2.0], "1.50")
        assert bool((x < 2).all())
        assert torch.equal(x, x.clone())


def test_changes_in_place_reach_views() -> None:
    with other_device() as device:
        x = torch.zeros(2, 3, device=device)
        row = x[1]
        row[0] = 5.0
        assert row.add_(1.0) is row
        assert x.tolist() == [[0, 0, 0], [6, 1, 1]]


def test_integers_at_the_ends_are_held() -> None:
    with other_device() as device:
        x = torch.tensor([255.9, 0.0, -0.9], device=device)
        assert x.to(torch.uint8).tolist() == [255, 0, 0]
        assert torch.tensor([-(2.0**31)], device=device).to(torch.int32).tolist() == [-(2**31)]
        with pytest.raises(ArithmeticError):
            torch.tensor([2.0**63], device=device).long()


def test_sums_of_integers_and_divisions_by_powers_of_two_are_the_same_everywhere() -> None:
    with other_device() as device:
        x = torch.arange(4, device=device)
        assert x.sum().item() == 6
        assert (x.float() / 8).square().tolist() == [0.0, 1 / 64, 1 / 16, 9 / 64]


def test_what_is_done_is_told() -> None:
    seen: list[str] = []
    with other_device(seen.append) as device:
        torch.ones(2, device=device) + 1
        torch.ones(2) * 2
    assert seen == ["aten.ones.default", "aten.add.Tensor"]
