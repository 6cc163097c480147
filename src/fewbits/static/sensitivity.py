"""What each layer costs alone: the error of the outputs when it is rounded and everything else is in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fewbits.static.affine import Affine
from fewbits.static.inputs import Batch
from fewbits.static.observing import ordered
from fewbits.static.planning import Constants, Plan
from fewbits.static.program import Program, Ref, Step, apply, run
from fewbits.static.weights import WeightFormat, rounded

JUDGED = 256
"""Samples of the calibration set that layers are judged on, whole batches of them."""


def errors_alone(
    program: Program,
    constants: Constants,
    plan: Plan,
    codes: Mapping[str, Affine],
    batches: Sequence[Batch],
    outputs: Sequence[tuple[Any, ...]],
    form: WeightFormat,
) -> dict[str, float]:
    """Product -> relative RMS error of the outputs when its inputs, weight and results alone are rounded."""
    judged = judged_batches(batches)
    found = {}
    for step in program.steps:
        if (
            step.name in plan.whole
            and step.args[1:]
            and isinstance(step.args[1], Ref)
            and step.args[1].name in constants
        ):
            rounding = _rounding(step, constants, plan, codes, form)
            made = [run(program, ordered(program, batch), constants, rounding) for batch in judged]
            found[step.name] = relative_error(made, outputs[: len(judged)])
    return found


def judged_batches(batches: Sequence[Batch]) -> list[Batch]:
    """The first batches, until they have as many samples as it takes."""
    found, samples = [], 0
    for batch in batches:
        found.append(batch)
        samples += batch.samples()
        if samples >= JUDGED:
            break
    return found


def _rounding(
    layer: Step, constants: Constants, plan: Plan, codes: Mapping[str, Affine], form: WeightFormat
) -> Callable[..., Any]:
    weight = rounded(constants[layer.args[1].name], form).numbers()
    tail = plan.tail(layer)
    rounds_results = layer.name in plan.coded

    def applied(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if step.name == layer.name:
            args = (codes[layer.args[0].name].rounded(args[0]), weight, *args[2:])
        value = apply(step, args, kwargs)
        return codes[tail].rounded(value) if rounds_results and step.name == tail else value

    return applied


def relative_error(made: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]]) -> float:
    """Root of sum (made - wanted)^2 / sum wanted^2 over all outputs of floats.

    >>> relative_error([(torch.tensor([1.0, 2.0]),)], [(torch.tensor([1.0, 1.0]),)])
    0.7071067811865476
    """
    lost = whole = 0.0
    for some, others in zip(made, wanted, strict=True):
        for one, other in zip(some, others, strict=True):
            if isinstance(other, torch.Tensor) and other.is_floating_point():
                lost += float((one.double() - other.double()).square().sum())
                whole += float(other.double().square().sum())
    return math.sqrt(lost / whole if whole else lost)
