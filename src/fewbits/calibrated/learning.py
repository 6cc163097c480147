"""A layer's codes and scales, learned together after a method has chosen them matrix by matrix.

What the layer as it was answers to the states that reach it is the target; those states come from the quantized layers
before it. Samples are whole windows, each answered by one worker, and gradients are added in the order of the windows:
the bytes do not depend on the number of threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import formats
from fewbits.calibrated.ground import CALIBRATION, STEP, Ground, states_name
from fewbits.calibrated.scaling import Scaling
from fewbits.calibrated.solving import MEASURED, relative_errors
from fewbits.calibration.walk import Measured, tensor_of
from fewbits.checkpoints.base import Order
from fewbits.encoding import joined
from fewbits.errors import CalibrationError
from fewbits.formats import Fields, Params
from fewbits.methods.learned import Answer, Learned, learn
from fewbits.qtensor import QTensor

if TYPE_CHECKING:
    import torch

    from fewbits.calibrated.parameters import Parameter
    from fewbits.calibrated.planning import Plan


@dataclass(frozen=True)
class Lesson:
    """States in front of a layer (samples, length, hidden), and what the layer as it was answers to them."""

    inputs: torch.Tensor
    targets: torch.Tensor
    call: Any
    """What the layer is called with beside one window of states."""


def lesson_of(ground: Ground, index: int, layer: Any) -> Lesson | None:
    """The lesson of layer `index`, which has its own numbers still; None where nothing is to be learned."""
    import torch

    learned = ground.way.learned
    if learned is None:
        return None
    states = ground.work.states(states_name(CALIBRATION, index))
    count = min(learned.samples, len(states))
    inputs = tensor_of(states[np.arange(count) * len(states) // count])
    call = ground.network.calls(torch.from_numpy(ground.texts.calibration[:1]))[index]

    def run(window: int) -> torch.Tensor:
        with torch.no_grad():
            return _first(layer(inputs[window : window + 1], *call.args, **call.kwargs))

    targets = torch.cat([answer for _, answer in ground.workers.in_order(run, range(count))])
    return Lesson(inputs, targets, call)


def learn_layer(
    ground: Ground,
    index: int,
    layer: Any,
    sites: Mapping[str, Any],
    lesson: Lesson,
    measured: Measured,
    scalings: Mapping[str, Scaling],
    fields: dict[str, dict[str, Fields]],
    record: dict[str, Any],
) -> None:
    """Learn from the solved `fields` of a layer on; `fields`, `record` and the modules get what was found."""
    assert ground.way.learned is not None, "asked for"
    prefix = ground.network.layer_name(index)
    pupils = {name: _Pupil.of(ground, f"{prefix}.{name}.weight", scalings, fields["solved"]) for name in sites}
    with _answering(layer, sites, lesson) as answer:
        found = learn(
            answer,
            lesson.inputs,
            lesson.targets,
            {name: pupil.w for name, pupil in pupils.items()},
            {name: pupil.q for name, pupil in pupils.items()},
            schedule=ground.way.learned.schedule,
            seed=ground.seed + index,
            workers=ground.workers,
            progress=lambda: ground.progress.skip(STEP),
        )
    leaders = {name: leader for leader, names in measured.groups.items() for name in names}
    energies: dict[str, Counter[str]] = {}
    for name, q in found.items():
        pupil, target = pupils[name], pupils[name].parameter.target
        plain = ground.numbers(f"{prefix}.{name}.weight", fields["plain"][target])
        sites[name].weight.data.copy_(q.dequantize())
        x = measured.seen[leaders[name]].inputs
        scaling = scalings.get(target)
        if scaling is not None and scaling.columns is not None:
            x = x / tensor_of(scaling.columns)
        numbers = {"solved": q.dequantize(), "plain": plain}
        energies.setdefault(target, Counter()).update(_energies(pupil.w, numbers, x))
        record[target]["remarks"].append(pupil.remark(q))
    for target, found_energies in energies.items():
        own = [name for name, pupil in pupils.items() if pupil.parameter.target == target]
        own.sort(key=lambda name: pupils[name].first)
        fields["solved"][target] = joined([pupils[name].in_target(found[name]).fields() for name in own])
        record[target]["errors"] = relative_errors(found_energies)


@dataclass(frozen=True)
class _Pupil:
    """One matrix before it learns, rows as the network has them."""

    parameter: Parameter
    w: torch.Tensor
    q: QTensor

    @property
    def first(self) -> int:
        """Its first row in the target."""
        return self.parameter.part.start if self.parameter.part else 0

    @staticmethod
    def of(ground: Ground, name: str, scalings: Mapping[str, Scaling], fields: Mapping[str, Fields]) -> _Pupil:
        """The matrix of the parameter `name` as transforms left it, and its solved codes."""
        parameter = ground.parameters.find(name)
        scaling, w = scalings.get(parameter.target), parameter.rows()
        if scaling is not None:
            w = tensor_of(scaling.applied(w.numpy()))
        own = parameter.stored(fields[parameter.target])
        stored = {field: np.array(array) for field, array in own.items()}
        q = QTensor.from_fields(formats.get(ground.planned[parameter.target].format), stored, (w.shape[0], w.shape[1]))
        return _Pupil(parameter, parameter.in_network(w), _reordered(q, parameter.order))

    def in_target(self, q: QTensor) -> QTensor:
        """`q` with its rows as the target orders them."""
        order = self.parameter.order
        return _reordered(q, None if order is None else np.argsort(order))

    def remark(self, q: QTensor) -> str:
        """What became of it."""
        import torch

        turned = float((q.codes != self.q.codes).double().mean())
        if turned == 0.0 and all(torch.equal(a, self.q.params[name]) for name, a in q.params.arrays.items()):
            return "learned with its layer: nothing better was found"
        scales = "" if q.params.arrays and q.format.rows == 1 else "; scales stayed, which rows share or none has"
        return f"learned with its layer: {turned:.2%} of the codes changed{scales}"


def _reordered(q: QTensor, order: Order | None) -> QTensor:
    """`q` whose row r is its row order[r]; what rows share stays."""
    import torch

    if order is None:
        return q
    rows, shared = torch.from_numpy(order), q.params.rows
    arrays = {name: a[rows] if shared.get(name, 1) == 1 else a for name, a in q.params.arrays.items()}
    return replace(q, codes=q.codes[rows], params=Params(arrays, shared))


@contextmanager
def _answering(layer: Any, sites: Mapping[str, Any], lesson: Lesson) -> Iterator[Answer]:
    """What `layer` answers with other weights for `sites`: from any thread, with one mapping at a time.

    The module itself gets the weights once per mapping, since torch's own way to call it with others is no thread's
    alone; its parameters are put back at the end.
    """
    own = {name: module.weight for name, module in sites.items()}
    placed: list[object] = [None]
    lock = Lock()

    def answer(given: Mapping[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
        with lock:
            if placed[0] is not given:
                _place(sites, given)
                placed[0] = given
        return _first(layer(states, *lesson.call.args, **lesson.call.kwargs))

    try:
        yield answer
    finally:
        for name, module in sites.items():
            del module.weight
            module.weight = own[name]


def _place(sites: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> None:
    for name, module in sites.items():
        del module.weight
        module.weight = given[name]


def _first(answered: Any) -> torch.Tensor:
    answer: torch.Tensor = answered[0] if isinstance(answered, tuple) else answered
    return answer.float()


def _energies(w: torch.Tensor, numbers: Mapping[str, torch.Tensor], x: torch.Tensor) -> dict[str, float]:
    """By kind what errors, and under "" what the matrix, make of the inputs `x`, of at most MEASURED rows."""
    chosen = np.arange(min(len(w), MEASURED)) * len(w) // min(len(w), MEASURED)
    rows = {"": w[chosen], **{kind: found[chosen] - w[chosen] for kind, found in numbers.items()}}
    return {kind: float((x @ each.T).double().square().sum()) for kind, each in rows.items()}


def require_learnable(plan: Plan, learned: Learned | None) -> None:
    """Refuse models with experts: what one of them learns depends on who is sent to it."""
    config = plan.source.network.network.config.get_text_config()
    if learned is not None and getattr(config, "num_local_experts", None):
        raise CalibrationError(
            f"{learned.name} learns from what a whole layer answers, and experts are not among what it can teach yet; "
            "take --method gptq_search."
        )


def cost(plan: Plan, learned: Learned | None) -> tuple[float, int]:
    """What learning adds to a walk: operations, and bytes at most."""
    if learned is None:
        return 0.0, 0
    windows, length = plan.calibration.shape
    config = plan.source.network.network.config.get_text_config()
    layers = len(plan.source.network)
    weights = sum(p.numel() for p in plan.source.network.shape(0).parameters() if p.dim() == 2)
    schedule, samples = learned.schedule, min(learned.samples, windows)
    judged = schedule.checks * max(1, samples // schedule.judges) / 3
    operations = 6.0 * layers * weights * length * (schedule.steps * schedule.batch + judged)
    states = 2 * 4 * samples * length * config.hidden_size
    return operations, states + _COPIES * 4 * weights


_COPIES = 12
"""A layer's numbers while it learns: what it was and is, offsets, their gradients and best, and those of samples."""
