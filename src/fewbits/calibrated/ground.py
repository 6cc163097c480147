"""What every step of a calibrated run stands on: the network, the texts, the plan, and where finished work lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits import formats, methods
from fewbits.calibrated import guard
from fewbits.calibrated.parameters import Parameter, Parameters, SourceNetwork
from fewbits.calibrated.workspace import Workspace
from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.walk import Batches, advance, batch_size
from fewbits.checkpoints.base import Bytes
from fewbits.encoding import encode_slab
from fewbits.formats import Fields
from fewbits.kernels.stored import stored_numbers
from fewbits.reporting.record import PlannedTensor
from fewbits.way import Way
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch

Ids = npt.NDArray[np.int64]
"""(windows, length)"""

CALIBRATION = "calibration"

STEP = 3
"""What a step of learning takes, in batches through the layer: forwards, and twice that backwards."""

HEAD = "head"
"""What comes after the last layer, among the names of layers."""


@dataclass(frozen=True)
class Texts:
    """The windows of token ids that codes are chosen by, and those that they are judged by."""

    calibration: Ids
    guard: Ids
    targets: Mapping[str, Ids] = field(default_factory=dict)
    """Group -> text of that kind, which the model will see."""

    def of(self, kind: str) -> Ids:
        """The text that states of `kind` come from: the guard's run behind solved and behind plain codes."""
        if kind in self.kinds:
            return self.targets[self.kinds[kind]]
        return self.calibration if kind == CALIBRATION else self.guard

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of states -> group of the target's text."""
        return {f"target{number}": name for number, name in enumerate(self.targets)}

    @property
    def measured(self) -> tuple[str, ...]:
        """Kinds of states that are measured and go through the layers behind what is kept; what is looked at first."""
        return (*self.kinds, CALIBRATION)


class Progress:
    """Counts batches; calling it says that one more is done."""

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def __call__(self) -> None:
        """One more is done."""
        self.skip(1)

    def skip(self, count: int) -> None:
        """`count` batches are done, or need not be."""
        self._done = min(self._done + count, self._total)
        self._report(self._done, self._total)


@dataclass
class Ground:
    """One calibrated run."""

    source: SourceNetwork
    planned: Mapping[str, PlannedTensor]
    """Tensor of the target -> what it becomes."""
    way: Way
    texts: Texts
    work: Workspace
    workers: Workers
    report: Callable[[int, int], None]
    seed: int = 0
    spans: list[range] = field(init=False)
    """Layers between two checkpoints of the guard."""
    progress: Progress = field(init=False)
    _batches: dict[str, list[Batches]] = field(init=False)

    def __post_init__(self) -> None:
        self.spans = guard.spans(len(self.network))
        self.progress = Progress(self.report, self._cost())
        self._batches = {}

    @property
    def network(self) -> LayeredNetwork:
        """The source's network."""
        return self.source.network

    @property
    def parameters(self) -> Parameters:
        """The source's parameters by their names in the network."""
        return self.source.parameters

    def _cost(self) -> int:
        """Batches through layers, all in all."""
        measured = sum(count_batches(self.texts.of(kind)) for kind in self.texts.measured)
        held_out = count_batches(self.texts.guard)
        layers = len(self.network)
        judged = sum(2 * (layers - span.stop) for span in self.spans)
        return layers * (2 * measured + 3 * held_out + self.learning) + judged * held_out + measured

    @property
    def learning(self) -> int:
        """What learning takes per layer, in batches."""
        return STEP * self.way.learned.schedule.steps if self.way.learned else 0

    def batches(self, kind: str) -> list[Batches]:
        """How states of `kind` go through each layer."""
        text = kind if kind in self.texts.measured else "guard"
        if text not in self._batches:
            self._batches[text] = self._calls(self.texts.of(text))
        return self._batches[text]

    def _calls(self, ids: Ids) -> list[Batches]:
        import torch

        size = batch_size(*ids.shape)
        sizes = {size, len(ids) % size} - {0}
        found = {n: self.network.calls(torch.from_numpy(ids[:n])) for n in sizes}
        return [
            Batches(len(ids), size, {n: calls[i] for n, calls in found.items()}, self.network.precision)
            for i in range(len(self.network))
        ]

    def looks_closely(self, kind: str) -> bool:
        """Whether more of inputs than their products is kept: where a part of the way reads that."""
        return kind == CALIBRATION and bool(self.way.needs & {"absmax", "inputs"})

    def is_finished(self, index: int) -> bool:
        """Whether the codes of layer `index` are kept."""
        return self.work.layer_record(layer_folder(index)) is not None

    @property
    def first_unfinished(self) -> int:
        """The layer to go on with; the number of layers where all are finished."""
        return next((i for i in range(len(self.network)) if not self.is_finished(i)), len(self.network))

    def keep(self, name: str, states: Any) -> None:
        """Keep a copy of `states` under `name`."""
        kept = self.work.new_states(name, states.shape)
        kept[:] = states
        self.work.keep_states(name, kept)

    def planned_of(self, module: str) -> PlannedTensor | None:
        """The tensor behind the module of that name, if the method is to solve it."""
        parameter = self.parameters.named.get(f"{module}.weight")
        planned = self.planned.get(parameter.target) if parameter else None
        return planned if planned and planned.method == self.way.name else None

    def sites(self, prefix: str, layer: Any) -> dict[str, Any]:
        """Name in the layer -> linear module whose matrix is to be solved."""
        import torch

        linear = {name: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
        return {name: module for name, module in linear.items() if self.planned_of(f"{prefix}.{name}") is not None}

    def numbers(self, parameter: str, fields: Fields) -> torch.Tensor:
        """Stored numbers of a parameter's tensor as the network has them."""
        found = self.parameters.find(parameter)
        format, shape = formats.get(self.planned[found.target].format), (found.count, found.placement.source.cols)
        return found.in_network(stored_numbers(format, found.stored(fields), shape))

    def rounded(self, parameter: Parameter, numbers: str, rows: Bytes) -> torch.Tensor:
        """What is stored of all `rows` of a parameter not solved, (rows, cols) float32 in the target's order."""
        planned, source = self.planned[parameter.target], parameter.placement.source
        encoded = encode_slab(methods.get("nearest"), planned, numbers, rows)
        return stored_numbers(formats.get(planned.format), encoded.fields, (len(rows), source.cols))

    def put(self, prefix: str, sites: Mapping[str, Any], fields: Mapping[str, Fields]) -> None:
        """Give the modules `sites` the numbers of stored fields."""
        for name, module in sites.items():
            parameter = f"{prefix}.{name}.weight"
            module.weight.data.copy_(self.numbers(parameter, fields[self.parameters.find(parameter).target]))

    def through(self, index: int, layer: Any, kind: str) -> None:
        """States of `kind` through layer `index` as it is now, kept behind it."""
        states = self.work.states(states_name(kind, index))
        out = self.work.new_states(states_name(kind, index + 1), states.shape)
        batches = self.batches(kind)[index]
        advance(layer, self.network.layer_name(index), states, out, batches, self.workers, self.progress)
        self.work.keep_states(states_name(kind, index + 1), out)


def count_batches(ids: Ids) -> int:
    """How many batches the windows `ids` make."""
    return -(-len(ids) // batch_size(*ids.shape))


def layer_folder(index: int) -> str:
    """Where the codes of layer `index` are kept.

    >>> layer_folder(3)
    'layer-0003'
    """
    return f"layer-{index:04d}"


def states_name(kind: str, index: int) -> str:
    """The name of states in front of layer `index`.

    >>> states_name("calibration", 3)
    'calibration-0003'
    """
    return f"{kind}-{index:04d}"
