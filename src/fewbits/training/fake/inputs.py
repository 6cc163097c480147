"""Fake quantization of what goes into a layer: per token as it comes, or under one range, observed or learned."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from fewbits import activations
from fewbits.calibration.observers import OBSERVERS, Range
from fewbits.calibration.stats import STATS
from fewbits.errors import CalibrationError, RecipeError
from fewbits.layers.rounding import StaticRounding
from fewbits.training.fake.steps import scaled_down
from fewbits.training.fake.straight import recomputing, stepped, through

_STATIC = re.compile(r"(u?)int([1-8])_(learned|moving)")
PACE = 0.05
"""The share of a batch in a moving average."""


@dataclass(frozen=True)
class Static:
    """Whole numbers of `bits` under one scale and one zero point for all inputs of a layer."""

    bits: int
    range: str
    """"learned", or "moving": the average of batches' ranges, the latest weighing most."""

    @property
    def top(self) -> int:
        """The largest code; the lowest is 0."""
        return int(2**self.bits) - 1


def parse(name: str) -> Static | str:
    """What `name` asks for: a static range, or the name of a rounding of activations.

    Raises RecipeError where it is neither.

    >>> parse("int4_learned"), parse("int8_token")
    (Static(bits=4, range='learned'), 'int8_token')
    """
    if found := _STATIC.fullmatch(name):
        return Static(int(found[2]), found[3])
    try:
        return activations.get(name).name
    except RecipeError as error:
        raise RecipeError(f"{error} Or a static range: int8_learned, int4_moving, of 1 to 8 bits.") from None


def inputs_of(name: str, observer: str, delay: int, freeze_after: int | None) -> DynamicInputs | StaticInputs:
    """The module that rounds inputs as `name` says."""
    found = parse(name)
    if isinstance(found, Static):
        return StaticInputs(found, observer, delay, freeze_after)
    return DynamicInputs(found, delay)


class _Waiting(torch.nn.Module, ABC):
    """Rounds nothing in the first `delay` calls of training."""

    def __init__(self, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (...) as the layer gets them."""
        again = recomputing()
        if self.training and not again:
            self.get_buffer("calls").add_(1)
        calls = int(self.get_buffer("calls"))
        return x if self.training and calls <= self.delay else self.rounded(x, calls, again=again)

    @abstractmethod
    def rounded(self, x: torch.Tensor, calls: int, *, again: bool) -> torch.Tensor:
        """Inputs (...) after rounding, at call number `calls`, which gradient checkpointing may repeat."""


class DynamicInputs(_Waiting):
    """A rounding of `activations`, token by token; its scale follows the largest number, so that nothing is clipped."""

    def __init__(self, name: str, delay: int = 0) -> None:
        super().__init__(delay)
        self.name = activations.get(name).name

    def rounded(self, x: torch.Tensor, calls: int, *, again: bool) -> torch.Tensor:
        """Inputs (..., cols), rounded; the gradient passes."""
        return through(x, activations.get(self.name).rounded(x.detach()))


class StaticInputs(_Waiting):
    """One range for all inputs: found by an observer at the first batch, or by `watch`, then learned or averaged.

    After `freeze_after` calls in training it stays.
    """

    def __init__(self, kind: Static, observer: str = "mse", delay: int = 0, freeze_after: int | None = None) -> None:
        super().__init__(delay)
        self.kind, self.observer, self.freeze_after = kind, observer, freeze_after
        OBSERVERS.get(observer)
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.register_buffer("ends", torch.zeros(2))
        self.register_buffer("latest", torch.zeros(2))
        self.register_buffer("waits", torch.zeros((), dtype=torch.bool))
        self.register_buffer("scale_start", torch.ones(()))
        self.register_buffer("zero_start", torch.zeros(()))
        learned = kind.range == "learned"
        self.scale_move = torch.nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.zero_move = torch.nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.watching: Any = None

    def rounded(self, x: torch.Tensor, calls: int, *, again: bool) -> torch.Tensor:
        """Inputs (...), rounded; numbers beyond the range get no gradient, a learned range gets theirs."""
        if self.watching is not None:
            self.watching.update(x.detach().float().reshape(1, -1, 1).cpu())
            return x
        if not bool(self.get_buffer("known")):
            self._begin(x)
        frozen = self.freeze_after is not None and calls > self.freeze_after
        if self.kind.range == "moving" and self.training and not again:
            self._follow(x, calls)
        scale, zero = (part.detach() if frozen else part for part in self.range_of(x.numel()))
        with torch.no_grad():
            steps = x.float() / scale + zero
            value = StaticRounding(scale, zero, self.kind.bits)(x)
            inside = (steps >= 0) & (steps <= self.kind.top)
        return stepped(x, scale, torch.zeros_like(scale), zero, value, inside)

    def range_of(self, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point, with gradients where they are learned; `count` inputs have a say in them."""
        moves = (scaled_down(m, count, self.kind.top) for m in (self.scale_move, self.zero_move))
        scale_move, zero_move = moves if self.scale_move.requires_grad else (self.scale_move, self.zero_move)
        start, least = self.get_buffer("scale_start"), torch.finfo(torch.float32).tiny
        scale = start + start * scale_move
        scale = through(scale, scale.detach().clamp(min=least))
        zero = self.get_buffer("zero_start") + (self.kind.top + 1) / 8 * zero_move
        return scale, through(zero, zero.detach().round().clamp(0, self.kind.top))

    def watch(self) -> None:
        """From here on see inputs and change nothing, until `settle`."""
        self.watching = STATS.get(OBSERVERS.get(self.observer)().needs)(1)

    def settle(self) -> None:
        """Let the range be what the observer makes of what was seen; raises CalibrationError where that is nothing."""
        stat, self.watching = self.watching, None
        found = OBSERVERS.get(self.observer)().range(stat.value, bits=self.kind.bits)
        self._set(found)

    def static(self) -> StaticRounding:
        """The rounding as it stands, for a network that is not trained any more."""
        if not bool(self.get_buffer("known")):
            raise CalibrationError("no input has been seen yet, so its range cannot be told; train or calibrate first.")
        scale, zero = self.range_of()
        return StaticRounding(scale.detach(), zero.detach(), self.kind.bits)

    def _begin(self, x: torch.Tensor) -> None:
        self.watch()
        self.watching.update(x.detach().float().reshape(1, -1, 1).cpu())
        self.settle()

    def _set(self, found: Range) -> None:
        scale, zero = found.steps(self.kind.bits, symmetric=False)
        with torch.no_grad():
            self.get_buffer("ends").copy_(torch.tensor([found.low, found.high]))
            self.get_buffer("scale_start").fill_(scale)
            self.get_buffer("zero_start").fill_(zero)
            self.scale_move.zero_()
            self.zero_move.zero_()
            self.get_buffer("known").fill_(True)

    def _follow(self, x: torch.Tensor, calls: int) -> None:
        """Move the range towards that of the batch before; that of this one waits for the next.

        Jacob et al. 2018, arXiv:1712.05877, section 3.1: ranges are smoothed over the steps of training.
        """
        ends, latest, waits = (self.get_buffer(name) for name in ("ends", "latest", "waits"))
        last = self.freeze_after if self.freeze_after is not None else calls
        if bool(waits) and calls <= last + 1:
            low, high = (ends + PACE * (latest - ends)).tolist()
            self._set(Range(low, high))
        numbers = x.detach().float()
        latest.copy_(torch.stack([numbers.amin().clamp(max=0), numbers.amax().clamp(min=0)]))
        waits.fill_(calls <= last)

    def extra_repr(self) -> str:
        """Bits and how the range comes about."""
        return f"int{self.kind.bits}, range {self.kind.range}, begun by {self.observer}"
