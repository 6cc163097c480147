"""Learned rounding: a whole layer's codes and scales, by the sign of the gradient of what the layer answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule
from fewbits.methods.parts import parts_of
from fewbits.qtensor import QTensor
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Answer = Callable[[Mapping[str, "torch.Tensor"], "torch.Tensor"], "torch.Tensor"]
"""What a layer answers with these weights (site -> (rows, cols)) to these inputs."""


@dataclass(frozen=True)
class Schedule:
    """How long is learned, and by how much."""

    steps: int = 200
    batch: int = 8
    """Samples per step, drawn anew for each."""
    reach: float = 0.5
    """How far an offset can go in all steps together, in steps of the grid; half a step turns every code."""
    stretch: float = 0.02
    """By what part a scale can change in all steps together."""
    checks: int = 20
    """How often what was learned is judged; where it is worse, learning goes on from the best, at half the pace."""
    judges: int = 8
    """One in this many samples is not learned from, and judges."""

    def rate(self, step: int) -> float:
        """The part of the whole way that step `step` may take: less and less, 1 in sum."""
        return 2 * (self.steps - step) / (self.steps * (self.steps + 1))


@dataclass(frozen=True)
class Learned:
    """Learning in `quantize`: after a method has chosen the codes of a layer's matrices, they change together."""

    name: str = "learned"
    needs: frozenset[str] = frozenset({"layer", "inputs"})
    """What the layer answers as it was, to the states that reach it; some inputs of each matrix, to tell errors by."""
    schedule: Schedule = Schedule(steps=100, batch=4, checks=10)
    samples: int = 64
    """Windows of the calibration text, at most and evenly spread, that are learned from and judged by."""


def learn(
    answer: Answer,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    sites: Mapping[str, QTensor],
    *,
    schedule: Schedule = Schedule(),
    seed: int = 0,
    workers: Workers | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, QTensor]:
    """Codes and scales that bring what a layer answers to `inputs` (samples, ...) nearer to `targets`, from `sites`.

    Every number gets an offset within half a step of its grid, every part of a row a factor; both follow the sign of
    the gradient of the squared error, straight through the rounding (AutoRound: Cheng et al. 2023, arXiv:2309.05516,
    equations 3 and 5; factors as in OmniQuant: Shao et al. 2023, arXiv:2308.13137). `weights` are what the sites were
    before. Some samples are kept apart, and what comes back never answers worse to those than `sites`. With `workers`
    each sample is answered by itself, by any of them, and sums have the order of the samples; `answer` is then called
    from several threads with one and the same mapping. `progress` is called after each step. Raises CalibrationError
    where the layer answers no numbers.

    >>> import torch
    >>> from fewbits import formats
    >>> x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).cumsum(1)
    >>> w, q2 = torch.randn(8, 32, generator=torch.Generator().manual_seed(2)), formats.get("int2_g32_sym")
    >>> start = {"w": QTensor(q2, q2.encode(w, q2.fit(w)), q2.fit(w))}
    >>> answer = lambda given, x: x @ given["w"].T
    >>> found = learn(answer, x, x @ w.T, {"w": w}, start)["w"].dequantize()
    >>> bool((x @ (found - w).T).square().sum() < 0.5 * (x @ (start["w"].dequantize() - w).T).square().sum())
    True
    """
    learning = {name: _Site(weights[name], q) for name, q in sites.items()}
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=drawn).to(inputs.device)
    judging = order[: max(1, len(order) // schedule.judges)]
    taught = order[len(judging) :] if len(order) > 1 else order
    run = _Run(answer, schedule.batch if workers is None else 1, workers)
    best, least = dict(sites), _loss(run, inputs[judging], targets[judging], sites)
    pace, checks = 1.0, {schedule.steps * part // schedule.checks for part in range(1, schedule.checks + 1)}
    for step in range(schedule.steps):
        some = taught[torch.randperm(len(taught), generator=drawn)[: schedule.batch].to(inputs.device)]
        with torch.enable_grad():
            given = {name: site.rounded() for name, site in learning.items()}
        torch.autograd.backward(list(given.values()), run.gradients(given, inputs[some], targets[some]))
        for site in learning.values():
            site.follow(schedule, pace * schedule.rate(step))
        if step + 1 in checks:
            found = {name: site.stored() for name, site in learning.items()}
            loss = _loss(run, inputs[judging], targets[judging], found)
            worse = loss > least
            pace *= 0.5 if worse else 1.0
            for site in learning.values():
                site.settle(better=not worse)
            best, least = (best, least) if worse else (found, loss)
        progress()
    return best


@dataclass(frozen=True)
class _Run:
    """How samples are answered: `together` at once, one after another or by workers."""

    answer: Answer
    together: int
    workers: Workers | None

    def each(self, function: Callable[[slice], Any], count: int) -> list[Any]:
        """What `function` returns for parts of `count` samples, in their order."""
        parts = [slice(start, start + self.together) for start in range(0, count, self.together)]
        if self.workers is None:
            return [function(part) for part in parts]
        return [result for _, result in self.workers.in_order(function, parts)]

    def gradients(
        self, given: Mapping[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor
    ) -> list[torch.Tensor]:
        """Of the mean squared error by each of `given`; raises CalibrationError where answers are no numbers."""
        leaves = {name: w.detach().requires_grad_() for name, w in given.items()}

        def run(part: slice) -> tuple[float, tuple[torch.Tensor, ...]]:
            with torch.enable_grad():
                error = (self.answer(leaves, inputs[part]) - targets[part]).square().sum() / targets.numel()
                return float(error.detach()), torch.autograd.grad(error, tuple(leaves.values()))

        done = self.each(run, len(inputs))
        _number(sum(error for error, _ in done))
        total = list(done[0][1])
        for _, found in done[1:]:
            total = [one.add_(other) for one, other in zip(total, found, strict=True)]
        return total


def of_layer(layer: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Answer:
    """What the torch module `layer` answers to states with other weights (rows, cols) for its submodules, by name.

    `args` and `kwargs` are what it is called with beside the states, for any number of samples; of several answers the
    first counts.
    """

    def answer(given: Mapping[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
        named = {f"{site}.weight": w for site, w in given.items()}
        answered = torch.func.functional_call(layer, named, (states, *args), dict(kwargs or {}))
        first: torch.Tensor = answered[0] if isinstance(answered, tuple) else answered
        return first

    return answer


def _loss(run: _Run, inputs: torch.Tensor, targets: torch.Tensor, sites: Mapping[str, QTensor]) -> float:
    """The sum of squared errors of what the layer answers with `sites`, over all inputs."""
    given = {name: q.dequantize() for name, q in sites.items()}

    def missed(part: slice) -> float:
        with torch.no_grad():
            return float((run.answer(given, inputs[part]) - targets[part]).double().square().sum())

    return _number(sum(run.each(missed, len(inputs))))


def _number(error: float) -> float:
    if not error < float("inf"):
        raise CalibrationError(
            "the layer answers NaN or infinite numbers, so nothing can be learned; its weights or inputs are damaged."
        )
    return error


class _Site:
    """One matrix on its way: numbers that round to the codes of the start, their offsets, and factors of parts."""

    def __init__(self, w: torch.Tensor, start: QTensor) -> None:
        self._kept, start = start.outliers, replace(start, outliers=None)
        if self._kept:  # neither codes nor scales are theirs
            w = w.index_fill(1, self._kept.index, 0)
        self._start = start
        self._grid: Any = start.format.grid(start.params, slice(None))
        stored = start.dequantize()
        same = (self._grid.nearest(w.float()) == start.codes).repeat_interleave(start.format.vector, 1)
        self._base = torch.where(same, w.float(), stored)
        self._step = _steps(w.float() - stored, parts_of(start))
        self.offset = torch.zeros_like(self._base, requires_grad=True)
        self.factor = torch.ones(len(w), parts_of(start), device=w.device, requires_grad=True)
        self._best = (self.offset.detach().clone(), self.factor.detach().clone())

    def rounded(self) -> torch.Tensor:
        """(rows, cols): rounded numbers times factors, with the gradients of offsets and factors."""
        wanted = self._base + self.offset * self._step
        with torch.no_grad():
            value = self._grid.value(self._grid.nearest(wanted.contiguous()))
        straight: torch.Tensor = (wanted + (value - wanted).detach()) * self._factors(wanted)
        return self._kept.over(straight) if self._kept else straight

    def _factors(self, like: torch.Tensor) -> torch.Tensor:
        return self.factor.repeat_interleave(like.shape[1] // self.factor.shape[1], 1)

    def follow(self, schedule: Schedule, rate: float) -> None:
        """One step against the sign of the gradients; offsets stay within half a step of the grid."""
        for parameter, size in ((self.offset, schedule.reach), (self.factor, schedule.stretch)):
            assert parameter.grad is not None
            with torch.no_grad():
                parameter.sub_(size * rate * parameter.grad.sign())
            parameter.grad = None
        with torch.no_grad():
            self.offset.clamp_(-0.5, 0.5)

    def settle(self, *, better: bool) -> None:
        """Remember offsets and factors, or go back to those that were best."""
        with torch.no_grad():
            if better:
                self._best = (self.offset.detach().clone(), self.factor.detach().clone())
            else:
                self.offset.copy_(self._best[0])
                self.factor.copy_(self._best[1])

    def stored(self) -> QTensor:
        """The codes, with parameters fitted at them to the numbers times factors, where that is nearer."""
        return replace(self._settled(), outliers=self._kept)

    def _settled(self) -> QTensor:
        with torch.no_grad():
            codes = self._grid.nearest((self._base + self.offset * self._step).contiguous())
            q = replace(self._start, codes=codes)
            wanted = q.dequantize() * self._factors(self._base)
            like = q.params if q.params.rows else None
            if not q.params.arrays or q.format.rows != 1:
                return q
            found = replace(q, params=q.format.fit(wanted, codes=codes, like=like))
            errors = [(x.dequantize() - wanted).square().sum() for x in (found, q)]
            return found if bool(errors[0] < errors[1]) else q


def _steps(error: torch.Tensor, parts: int) -> torch.Tensor:
    """(rows, cols): the distance between neighbours in the grid of a part, from errors that are even within it."""
    spread = error.reshape(len(error), parts, -1).square().mean(-1, keepdim=True).mul(12).sqrt()
    return spread.expand(-1, -1, error.shape[1] // parts).reshape(error.shape)
