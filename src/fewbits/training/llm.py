"""Language models that learn to answer as they did before they were quantized: layer by layer, then as a whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fewbits.errors import TrainingError
from fewbits.training.distilling import distillation
from fewbits.training.preparing import parameter_groups

Progress = Callable[[int, int, float], None]
"""Called with the steps done, all steps and the loss."""


@dataclass(frozen=True)
class Schedule:
    """How a student is taught."""

    steps: int = 300
    batch: int = 8
    """Windows per step, drawn anew for each pass over them."""
    rate: float = 2e-4
    """Of weights, at its highest; it rises for `warm_up` of the steps and falls as a cosine to a tenth."""
    steps_rate: float = 1e-4
    """Of scales and zero points: half the rate of weights, as `qat` has it and for the same reason."""
    warm_up: float = 0.05
    longest: float = 1.0
    """Gradients are cut to this length."""
    temperature: float = 1.0
    seconds_of_processors: float | None = None
    """No step begins after so much time of all processors; rates fall by that time then, so that a slow machine takes
    fewer steps, and not a part of the schedule."""
    seed: int = 0

    def done(self, step: int, spent: float) -> float:
        """How much of the way (0 to 1) lies behind `step`, after `spent` seconds of processors.

        >>> Schedule(steps=10).done(5, 99.0), Schedule(seconds_of_processors=10.0).done(5, 2.0)
        (0.5, 0.2)
        """
        return spent / self.seconds_of_processors if self.seconds_of_processors else step / self.steps

    def factor(self, done: float) -> float:
        """The share of the highest rate after `done` (0 to 1) of the way.

        >>> [round(Schedule(warm_up=0.1).factor(done), 3) for done in (0.0, 0.05, 0.1, 1.0)]
        [0.01, 0.5, 1.0, 0.1]
        """
        if done < self.warm_up:
            return max(done / self.warm_up, 0.01)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up)))


@dataclass
class History:
    """What happened."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    """Of the clock on the wall."""
    seconds_of_processors: float = 0.0


def distil(
    student: Any, teacher: Any, windows: torch.Tensor, schedule: Schedule = Schedule(), progress: Progress | None = None
) -> History:
    """Let a prepared `student` answer as `teacher` on `windows` (n, tokens) of ids: KL divergence over all positions.

    Both are networks that answer ids with `logits`. Raises TrainingError where the loss is no number, and says at
    which step; the student then has the weights of the step before.
    """

    def loss(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(ids).logits
        return distillation(student(ids).logits, wanted, schedule.temperature)

    teacher.eval()
    student.train()
    history = _taught(parameter_groups(student, schedule.rate, schedule.steps_rate), loss, windows, schedule, progress)
    student.eval()
    return history


def _taught(
    groups: list[dict[str, Any]],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    items: torch.Tensor,
    schedule: Schedule,
    progress: Progress | None,
) -> History:
    """Adam over batches of `items` (n, ...)."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    highest = [group["lr"] for group in groups]
    parameters = [p for group in groups for p in group["params"]]
    history, began, processors = History(), time.perf_counter(), time.process_time()
    for step, batch in enumerate(_batches(items, schedule)):
        done = schedule.done(step, time.process_time() - processors)
        if done >= 1.0:
            break
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * schedule.factor(done)
        optimizer.zero_grad()
        loss = loss_of(batch)
        history.losses.append(_number(loss, step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, schedule.longest)
        optimizer.step()
        history.tokens += batch.shape[0] * batch.shape[1]
        if progress is not None:
            progress(step + 1, schedule.steps, history.losses[-1])
    history.seconds = time.perf_counter() - began
    history.seconds_of_processors = time.process_time() - processors
    return history


def _batches(items: torch.Tensor, schedule: Schedule) -> Iterator[torch.Tensor]:
    drawn, left = torch.Generator().manual_seed(schedule.seed), torch.empty(0, dtype=torch.int64)
    for _ in range(schedule.steps):
        while len(left) < schedule.batch:
            left = torch.cat([left, torch.randperm(len(items), generator=drawn)])
        now, left = left[: schedule.batch], left[schedule.batch :]
        yield items[now]


def _number(loss: torch.Tensor, step: int) -> float:
    found = float(loss.detach())
    if not math.isfinite(found):
        raise TrainingError(
            f"the loss is {found} at step {step + 1}; the weights are those of step {step}: take a lower rate, or look "
            "at what goes in."
        )
    return found


def teach_layers(
    student: Any,
    teacher: Any,
    windows: torch.Tensor,
    schedule: Schedule = Schedule(),
    progress: Callable[[int, int, History], None] | None = None,
) -> list[History]:
    """Let each layer of a prepared `student` answer as that of `teacher`, the first one first.

    A layer gets the states that its taught predecessors make of `windows` (n, tokens), and learns what the teacher's
    makes of its own (squared error; BRECQ: Li et al. 2021, arXiv:2102.05426, with weights and scales learned as in
    EfficientQAT: Chen et al. 2024, arXiv:2407.11062, section 3.2). `schedule` holds for each layer by itself;
    `progress` is called after each with its number, how many there are, and what happened.
    """
    ours, theirs = layers_of(student), layers_of(teacher)
    inputs, wanted = (_first_states(network, windows, schedule.batch) for network in (student, teacher))
    histories = []
    for place, (layer, model) in enumerate(zip(ours, theirs, strict=True)):
        wanted = [_answered(model, one) for one in wanted]
        histories.append(_teach_layer(layer, inputs, wanted, schedule))
        inputs = [_answered(layer, one) for one in inputs]
        if progress is not None:
            progress(place + 1, len(ours), histories[-1])
    return histories


@dataclass(frozen=True)
class States:
    """What reaches a layer for some windows, and what it is called with beside."""

    states: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def layers_of(network: Any) -> Sequence[torch.nn.Module]:
    """The layers of a network of transformers: its longest list of modules of one class; raises TrainingError.

    >>> layers_of(torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]))[1].out_features
    2
    """
    lists: list[Sequence[torch.nn.Module]] = [
        list(m) for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len({type(e) for e in m}) == 1
    ]
    if not lists:
        raise TrainingError(f"{type(network).__name__} has no list of layers that could be taught one by one.")
    return max(lists, key=len)


class _Caught(Exception):  # noqa: N818 - it stops a forward, and is no error
    """The first layer was reached."""


def _first_states(network: Any, windows: torch.Tensor, batch: int) -> list[States]:
    """What reaches the first layer, a batch of windows at a time."""
    caught: list[States] = []

    def catch(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(States(args[0].detach(), args[1:], kwargs))
        raise _Caught

    handle = layers_of(network)[0].register_forward_pre_hook(catch, with_kwargs=True)
    training = network.training
    network.eval()
    with torch.no_grad():
        for start in range(0, len(windows) - batch + 1, batch):
            try:
                network(windows[start : start + batch], use_cache=False)
            except _Caught:
                continue
    handle.remove()
    network.train(training)
    return caught


def _answered(layer: torch.nn.Module, given: States) -> States:
    layer.eval()
    with torch.no_grad():
        return States(_states(layer(given.states, *given.args, **given.kwargs)), given.args, given.kwargs)


def _states(answered: Any) -> torch.Tensor:
    found: torch.Tensor = answered[0] if isinstance(answered, tuple) else answered
    return found


def _teach_layer(layer: torch.nn.Module, inputs: list[States], wanted: list[States], schedule: Schedule) -> History:
    layer.train()
    groups = parameter_groups(layer, schedule.rate, schedule.steps_rate)
    size = float(sum(one.states.square().mean() for one in wanted) / len(wanted))

    def loss(place: torch.Tensor) -> torch.Tensor:
        given = inputs[int(place)]
        answered = _states(layer(given.states, *given.args, **given.kwargs))
        return (answered - wanted[int(place)].states).square().mean() / size

    places = torch.arange(len(inputs))[:, None]
    history = _taught(groups, lambda batch: loss(batch[0, 0]), places, replace(schedule, batch=1), None)
    layer.eval()
    return history
