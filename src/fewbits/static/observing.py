"""The calibration set runs through the program once; what each value was like, statistics of `calibration` say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fewbits.calibration.observers import OBSERVERS, Observer, Range
from fewbits.calibration.stats import STATS, Stat
from fewbits.errors import CalibrationError
from fewbits.static.inputs import Batch
from fewbits.static.planning import Constants
from fewbits.static.program import Program, Step, apply, run


class Observed:
    """Ranges of the values of a program, by the observer of a name."""

    def __init__(self, observer: str, stats: dict[str, Stat[Any]], *, symmetric: bool) -> None:
        self._observer: Observer = OBSERVERS.get(observer)()
        self._stats, self._symmetric = stats, symmetric
        self._found: dict[str, Range] = {}

    def range(self, name: str) -> Range:
        """The range of the value `name`; raises CalibrationError where it held NaN or infinite numbers."""
        if name not in self._found:
            try:
                value = self._stats[name].value
                self._found[name] = self._observer.range(value, bits=8, symmetric=self._symmetric)
            except CalibrationError as error:
                raise CalibrationError(
                    f"the values of {name} hold NaN or infinite numbers, or none, on the calibration set; its range "
                    "cannot be told: look at the network's weights and at what goes in."
                ) from error
        return self._found[name]


def observe(
    program: Program,
    constants: Constants,
    batches: Sequence[Batch],
    names: frozenset[str],
    observer: str,
    *,
    symmetric: bool,
) -> tuple[Observed, list[tuple[Any, ...]]]:
    """Ranges of the values `names`, and the outputs of every batch."""
    kind = STATS.get(OBSERVERS.get(observer)().needs)
    stats: dict[str, Stat[Any]] = {name: kind(1) for name in names}

    def see(name: str, value: torch.Tensor) -> None:
        stats[name].update(value.detach().reshape(len(value) if value.dim() else 1, -1, 1))

    outputs = []
    for batch in batches:
        tensors = ordered(program, batch)
        for each, tensor in zip(program.inputs, tensors, strict=True):
            if each.name in names:
                see(each.name, tensor)
        outputs.append(run(program, tensors, constants, _seeing(names, see)))
    return Observed(observer, stats, symmetric=symmetric), outputs


def _seeing(names: frozenset[str], see: Callable[[str, torch.Tensor], None]) -> Callable[..., Any]:
    def applied(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = apply(step, args, kwargs)
        if step.name in names:
            see(step.name, value)
        return value

    return applied


def ordered(program: Program, batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch in the order of the program's inputs."""
    rest = program.inputs[len(batch.args) :]
    return [*batch.args, *(batch.kwargs[each.name] for each in rest)]
