"""The transform protocol: exact rewrites of a group of tensors before any of them is rounded. No format is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fewbits.formats.base import Format
from fewbits.lazy import LazyModule
from fewbits.transforms.edits import Edits, ScaledColumns, ScaledRows
from fewbits.transforms.groups import Group

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SMALLEST = 1e-4
"""Factors stay between this and its inverse, so that gains remain ordinary numbers of 16 bits."""


Rounding = Callable[["torch.Tensor"], "torch.Tensor"]
"""What becomes of inputs (tokens, cols) of a matrix while the model runs."""


class Transform(Protocol):
    """One way to scale the inputs of a group's consumers."""

    @property
    def name(self) -> str:
        """The registry's name."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the statistics of the consumers' shared input that `edits` reads."""

    def edits(
        self,
        group: Group,
        weights: Mapping[str, torch.Tensor],
        formats: Mapping[str, Format],
        stats: Mapping[str, Any],
        *,
        rounding: Rounding | None = None,
    ) -> Edits:
        """The edits of `group`; `weights` brings its consumers (rows, cols), `formats` what each becomes.

        `rounding` is what becomes of their inputs; None where it is nothing.
        """


def scaled(group: Group, factor: torch.Tensor) -> Edits:
    """Consumers' columns times `factor`, one number per row of the producers (rows,), which are divided by it."""
    steps = [*(ScaledRows(name, 1.0 / factor) for name in group.producers)]
    columns = group.spread(factor)
    untied = dict(group.untied or {})
    remarks = ("the output head gets numbers of its own: it shared the embedding's",) if untied else ()
    configuration = {"tie_word_embeddings": False} if untied else {}
    return Edits((*steps, *(ScaledColumns(name, columns) for name in group.consumers)), untied, configuration, remarks)


def tamed(factor: torch.Tensor) -> torch.Tensor:
    """Factors (n,) whose largest and smallest are as far from 1, and 1 where a factor is none; float64."""
    factor = torch.where(
        factor.isfinite() & (factor > 0), factor.double(), torch.ones_like(factor, dtype=torch.float64)
    )
    middle = (factor.amax() * factor.amin()).sqrt()
    return (factor / middle).clamp(SMALLEST, 1 / SMALLEST)


def numbers_of(group: Group, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The consumers' numbers (rows, cols) by name, a tied one's from where it takes them."""
    untied = group.untied or {}
    return {name: weights[name if name in weights else untied[name]] for name in group.consumers}


def some_rows(w: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` rows of `w`, evenly spread over all of them."""
    if len(w) <= count:
        return w
    return w[torch.arange(count, device=w.device) * len(w) // count]
