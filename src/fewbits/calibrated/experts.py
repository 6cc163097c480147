"""What is known of the inputs of an expert that few tokens reached, or none: what all experts of its layer share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.calibration.experts import PLACE
from fewbits.calibration.stats import Hessian
from fewbits.calibration.walk import Measured
from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

INNER = "down_proj"
"""The matrix behind an expert's own middle: its columns are no other expert's."""


@dataclass(frozen=True)
class Pool:
    """What the experts of one layer have in common: the mean (cols, cols) of inputs that come from the stream.

    For inputs of their own it is the mean energy alone, (1,), of any column.
    """

    mean: torch.Tensor

    def with_own(self, own: Hessian | None, cols: int) -> torch.Tensor:
        """(cols, cols): an expert's own mean products, and the pool's as if `cols` tokens more had said them.

        The pool says how columns go together; how large they are, the expert itself, as far as tokens tell.
        """
        tokens = own.tokens if own else 0
        share = tokens / (tokens + cols)
        h = own.value if own else torch.zeros(cols, cols)
        energy = share * h.diagonal() + (1 - share) * self._energies(cols)
        return h.mul_(share).add_(self._as_large_as(energy), alpha=1 - share)

    def _energies(self, cols: int) -> torch.Tensor:
        return self.mean.diagonal() if self.mean.dim() == 2 else self.mean.expand(cols)

    def _as_large_as(self, energy: torch.Tensor) -> torch.Tensor:
        """Products of columns of these mean squares that go together as the pool's do."""
        if self.mean.dim() == 1:
            return energy.diag()
        size = self.mean.diagonal()
        factor = torch.where(size > 0, energy / size, torch.zeros_like(size)).sqrt()
        return self.mean * factor * factor[:, None]


def pools_of(measured: Measured) -> dict[str, Pool]:
    """Name of a site with the expert's number left out -> what is common to those of all experts.

    Raises CalibrationError, naming the first site, where no token reached any expert.
    """
    alike: dict[str, list[Hessian]] = {}
    leaders = {kind_of(leader): kind_of(leader) for leader in measured.groups if is_experts(leader)}
    for leader, hessian in measured.hessians.items():
        if is_experts(leader):
            alike.setdefault(kind_of(leader), []).append(hessian)
            leaders |= {kind_of(name): kind_of(leader) for name in measured.groups[leader]}
    pools = {kind: _pool(kind, hessians) for kind, hessians in alike.items()}
    unreached = [kind for kind, leader in leaders.items() if leader not in pools]
    if unreached:
        raise CalibrationError(f"no token of the calibration text reached any of {unreached[0]}; give more text.")
    return {kind: pools[leader] for kind, leader in leaders.items()}


def _pool(kind: str, hessians: list[Hessian]) -> Pool:
    tokens = sum(hessian.tokens for hessian in hessians)
    if kind.endswith(INNER):
        energies = [hessian.mean_square.mean() * hessian.tokens for hessian in hessians]
        return Pool(torch.stack(energies).sum(0, keepdim=True) / tokens)
    total = torch.zeros_like(hessians[0].value)
    for hessian in hessians:
        total.add_(hessian.value, alpha=hessian.tokens / tokens)
    return Pool(total)


def is_experts(site: str) -> bool:
    """Whether the module `site` of a layer belongs to one of its experts."""
    return PLACE in f".{site}"


def kind_of(site: str) -> str:
    """The name of an expert's site with its number left out.

    >>> kind_of("mlp.experts.17.up_proj")
    'mlp.experts.*.up_proj'
    """
    before, _, after = site.partition(PLACE)
    return f"{before}{PLACE}*.{after.partition('.')[2]}"


def blended(measured: Measured, pools: Mapping[str, Pool], leader: str, cols: int) -> torch.Tensor:
    """(cols, cols) for the sites of `leader`, which is let go of: the largest thing in memory."""
    own = measured.hessians.pop(leader, None)
    pool = pools[kind_of(leader)] if is_experts(leader) else None
    if pool is not None:
        return pool.with_own(own, cols)
    assert own is not None, "what is no expert was reached"
    return own.value
